"""What does SimHash buy against exact selection, and what does it lose? RAR's selectors, speed and recall.

Part ``learned``: recall@10 of exact cosine by SimHash on learned tables (truncated SVD of train interactions), raw and
centred, by bits and shortlist. Part ``speed``: time per query and memory of every selector on n drawn vectors. Part
``table``: the neighbours of all n rows. Part ``codes``: codes and Hamming search alone, up to 10^7 rows. A cell that is
in docs/results/selection.json is not measured again (``--again`` does), so that an interrupted run goes on.

    python benchmarks/bench_selection.py                                      # everything
    python benchmarks/bench_selection.py --quick --folder runs                # small sizes, one data set
    python benchmarks/bench_selection.py --parts speed --sizes 1000000

Needs CORRAL_DATA. Writes docs/results/selection.json and selection.md. One thread; CPU time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from results import Row, published, refuse_quick_look, result_row, table, with_published, write_results
from torch import Tensor, nn
from torch.nn import functional

from corral.cli.open_data import open_data
from corral.data.split import Part, leave_last_two_out
from corral.rar.ann_selector import AnnSelector
from corral.rar.hamming_index import HammingIndex
from corral.rar.selection import ExactSelector, SimHashSelector
from corral.rar.simhash import SimHash
from corral.retrieval.faiss_index import import_faiss
from corral.settings import DataSettings

PARTS = ("learned", "speed", "table", "codes")
DATASETS = ("ml-1m", "amazon-beauty")
SIZES = (10_000, 100_000, 1_000_000)
WORLDS = ("spectrum", "clustered")
BITS, SHORTLISTS = (32, 64, 128, 256), (40, 100)
SIZE, K, QUERIES, ALONE, CHUNK = 64, 10, 256, 20, 1_000_000
AnySelector = ExactSelector | SimHashSelector | AnnSelector


@dataclass(frozen=True)
class Learned:
    """One side of a factorisation.

    Attributes:
        name: of data set and side.
        vectors: [n, 64], rows with a train event.
        data_hash: of the Dataset.
    """

    name: str
    vectors: Tensor
    data_hash: str


def learned(name: str) -> list[Learned]:
    """Item and user vectors: 64 singular vectors of the 0/1 matrix of train events, each by the root of its value."""
    dataset = open_data(DataSettings(name=name))
    rows = leave_last_two_out(dataset).rows(Part.TRAIN)
    at = torch.from_numpy(np.stack([dataset.events.user[rows], dataset.events.item[rows]]).astype(np.int64)).unique(
        dim=1
    )
    shape = (dataset.n_users, dataset.n_items)
    matrix = torch.sparse_coo_tensor(at, torch.ones(at.shape[1]), shape, check_invariants=False)
    torch.manual_seed(0)
    users, values, items = torch.svd_lowrank(matrix, q=SIZE, niter=6)
    found = []
    for side, vectors, place in (("items", items, at[1]), ("users", users, at[0])):
        found.append(Learned(f"{name} {side}", (vectors * values.sqrt())[place.unique()], dataset.hash))
    return found


class Drawn:
    """Vectors in any number with what a learned table has: mean direction, spectrum and lengths.

    ``spectrum``: unit vectors drawn from the normal distribution of the table's unit vectors, lengths from its lengths:
    no structure beyond the second moment, the hardest case for any index. ``clustered``: a table's row and normal noise
    as far from it as half of its own nearest neighbour is: local structure as learned.

    Args:
        table: learned vectors [m, D].
        world: which of them.
        seed: of the draws.
    """

    def __init__(self, table: Tensor, world: str, seed: int) -> None:
        self.world, self.seed = world, seed
        self.lengths = table.norm(dim=1)
        self.units = functional.normalize(table, dim=1)
        self.mean = self.units.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov(self.units.T))
        self.root = vectors * values.clamp(min=0).sqrt()
        selector = ExactSelector()
        rows = torch.arange(2, len(table) + 2)
        selector.fit(table, rows)
        cosine = selector.search(table, 1, rows).scores[:, 0].clamp(-1, 1)
        self.apart = 0.5 * (2 - 2 * cosine).clamp(min=0).sqrt()

    def chunk(self, number: int, n: int) -> Tensor:
        """n vectors [n, D]; the same for the same number."""
        generator = torch.Generator().manual_seed(1_000 * self.seed + number)
        noise = torch.randn(n, len(self.mean), generator=generator)
        place = torch.randint(len(self.units), (n,), generator=generator)
        if self.world == "spectrum":
            units = self.mean + noise @ self.root.T
        else:
            units = self.units[place] + self.apart[place, None] * noise @ self.root.T / self.root.norm()
        return functional.normalize(units, dim=1) * self.lengths[place, None]


def cpu(call: Callable[[], object], repeats: int = 1) -> float:
    """Seconds of CPU, the median of some calls."""
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def share(found: Tensor, true: Tensor) -> float:
    """Share of the true rows [q, k] that are among those found [q, any]."""
    return float((true[:, :, None] == found[:, None]).any(2).float().mean())


def held(selector: nn.Module) -> float:
    """Megabytes of its buffers; FAISS keeps a copy of the codes or vectors besides."""
    return sum(value.numel() * value.element_size() for value in selector.state_dict().values()) / 1e6


def learned_part(options: argparse.Namespace, done: set[str]) -> Iterator[Row]:
    """Recall of the exact ten, by bits, centring and shortlist."""
    for one in (side for name in options.datasets for side in learned(name)):
        generator = torch.Generator().manual_seed(0)
        rows = torch.arange(2, len(one.vectors) + 2)
        asked = torch.randperm(len(rows), generator=generator)[:1_000]
        for metric in ("cosine", "inner-product"):
            exact = ExactSelector(metric)
            exact.fit(one.vectors, rows)
            true = exact.search(one.vectors[asked], K, rows[asked]).rows
            for bits in BITS if metric == "cosine" else (128, 256):
                for centre in (False, True):
                    system = f"{metric}, {bits} bits, {'centred' if centre else 'raw'}"
                    for seed in options.seeds:
                        if cell(one.name, system, seed) in done:
                            continue
                        selector = SimHashSelector(bits, seed=seed, metric=metric, centre=centre)
                        selector.fit(one.vectors, rows)
                        found = selector.search(one.vectors[asked], max(SHORTLISTS), rows[asked]).rows
                        # The exact order of a shortlist puts first what it has of the true ten.
                        metrics = {"recall@10": share(found[:, :K], true)}
                        metrics |= {f"re-ranked {m}": share(found[:, :m], true) for m in SHORTLISTS}
                        facts = {"part": "learned", "rows": len(rows)}
                        yield result_row(one.name, system, seed, metrics, data_hash=one.data_hash, protocol=facts)


def selectors(n: int) -> dict[str, Callable[[], AnySelector]]:
    """What is timed, by name; built when asked."""
    chosen: dict[str, Callable[[], AnySelector]] = {"exact": ExactSelector}
    for bits, rerank in ((64, 0), (64, 40), (128, 0), (128, 40), (128, 100), (256, 40), (256, 100)):
        chosen[f"SimHash {bits}" + (f", re-ranked {rerank}" if rerank else "")] = lambda b=bits, r=rerank: (
            SimHashSelector(b, seed=0, rerank=r)
        )
    chosen["SimHash 64, re-ranked 40, torch"] = lambda: SimHashSelector(64, seed=0, rerank=40, native=False)
    chosen["SimHash 128 in lists, re-ranked 100"] = lambda: SimHashSelector(128, seed=0, rerank=100, index="ivf")
    chosen["SimHash 256 in lists, re-ranked 100"] = lambda: SimHashSelector(256, seed=0, rerank=100, index="ivf")
    chosen["SimHash 128 in buckets, re-ranked 100"] = lambda: SimHashSelector(128, seed=0, rerank=100, index="hash")
    chosen["float lists"] = AnnSelector
    if n <= 100_000:
        chosen["SimHash 128 graph, re-ranked 100"] = lambda: SimHashSelector(128, seed=0, rerank=100, index="hnsw")
        chosen["float graph"] = lambda: AnnSelector(kind="hnsw", probes=64)
    return chosen


def plain_product(vectors: Tensor, queries: Tensor) -> Tensor:
    """What one would write first: a product and a top-k a block of 65,536 rows, the lists merged."""
    best = []
    for low in range(0, len(vectors), 65_536):
        top = (queries @ vectors[low : low + 65_536].T).topk(K)
        best.append((top.values, top.indices + low))
    values, places = (torch.cat(parts, 1) for parts in zip(*best, strict=True))
    return places.gather(1, values.topk(K).indices)


def timed(selector: AnySelector, vectors: Tensor, rows: Tensor, asked: Tensor, true: Tensor) -> dict[str, float]:
    """Times, memory and recall of a selector over rows [n], for the queries at ``asked`` [q]."""
    queries, own = vectors[asked], rows[asked]

    def ready() -> None:
        selector.fit(vectors, rows)
        selector.search(queries[:1], K)

    def one(i: int) -> float:
        return cpu(lambda: selector.search(queries[i : i + 1], K, own[i : i + 1]))

    fit_seconds = cpu(ready)
    return {
        "recall@10": share(selector.search(queries, K, own).rows, true),
        "ms_a_query": 1e3 * cpu(lambda: selector.search(queries, K, own), 3) / len(asked),
        "ms_alone": 1e3 * statistics.median(one(i) for i in range(ALONE)),
        "fit_s": fit_seconds,
        "mb": held(selector),
    }


def speed_part(options: argparse.Namespace, done: set[str]) -> Iterator[Row]:
    """Time per query in a batch and alone, time to fit, memory, recall."""
    for world, n in ((world, n) for n in options.sizes for world in options.worlds):
        dataset, names = f"{world}, n = {n:,}", ["plain product", *selectors(n)]
        if all(cell(dataset, name, 0) in done for name in names):
            continue
        vectors, rows = source(options, world).chunk(0, n), torch.arange(2, n + 2)
        asked = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:QUERIES]
        queries, own = vectors[asked], rows[asked]
        exact = ExactSelector()
        exact.fit(vectors, rows)
        true = exact.search(queries, K, own).rows
        facts = {"part": "speed", "world": world, "n": n}
        if cell(dataset, "plain product", 0) not in done:
            units = functional.normalize(vectors, dim=1)
            metrics = {"ms_a_query": 1e3 * cpu(lambda u=units, q=queries: plain_product(u, q), 3) / QUERIES}
            alone = [cpu(lambda u=units, q=queries[i : i + 1]: plain_product(u, q)) for i in range(ALONE)]
            metrics |= {"ms_alone": 1e3 * statistics.median(alone), "recall@10": 1.0, "mb": 4 * n * SIZE / 1e6}
            yield result_row(dataset, "plain product", 0, metrics, protocol=facts)
            del units
        for name, build in selectors(n).items():
            if cell(dataset, name, 0) not in done:
                # The torch path is several times slower: fewer queries.
                some = QUERIES if "torch" not in name else 32
                metrics = timed(build(), vectors, rows, asked[:some], true[:some])
                yield result_row(dataset, name, 0, metrics, protocol=facts)


def table_part(options: argparse.Namespace, done: set[str]) -> Iterator[Row]:
    """The ten neighbours of all n rows, the structure's building included."""
    chosen: dict[str, Callable[[], AnySelector]] = {
        "SimHash 128 in lists, re-ranked 40": lambda: SimHashSelector(128, seed=0, rerank=40, index="ivf"),
        "SimHash 256 in lists, re-ranked 100": lambda: SimHashSelector(256, seed=0, rerank=100, index="ivf"),
        "float lists, 8 visited": lambda: AnnSelector(probes=8),
        "float lists, 16 visited": lambda: AnnSelector(probes=16),
        "float graph": lambda: AnnSelector(kind="hnsw", probes=32),
    }
    for world, n in ((world, n) for n in options.sizes for world in options.worlds):
        dataset = f"{world}, n = {n:,}, all rows"
        if n < 100_000 or all(cell(dataset, name, 0) in done for name in chosen):
            continue
        vectors, rows = source(options, world).chunk(0, n), torch.arange(2, n + 2)
        asked = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:1_000]
        exact = ExactSelector()
        exact.fit(vectors, rows)
        true = exact.search(vectors[asked], K, rows[asked]).rows
        for name, build in chosen.items():
            # A graph takes several minutes to build at 10^6: once is enough.
            if cell(dataset, name, 0) in done or (name == "float graph" and n > 100_000 and world == "spectrum"):
                continue
            selector, found = build(), torch.zeros(n, K, dtype=torch.int32)
            start = time.process_time()
            selector.fit(vectors, rows)
            selector.search(vectors[:1], K)
            built = time.process_time() - start
            for block in torch.arange(n).split(1 << 14):
                found[block] = selector.search(vectors[block], K, rows[block]).rows.int()
            metrics = {"table_s": time.process_time() - start, "fit_s": built, "recall@10": share(found[asked], true)}
            yield result_row(dataset, name, 0, metrics, protocol={"part": "table", "world": world, "n": n})


def codes_part(options: argparse.Namespace, done: set[str]) -> Iterator[Row]:
    """Codes made chunk by chunk and searched flat; vectors are not kept, and drawn again for the truth."""
    for n in sorted({*options.sizes, *([10 * CHUNK] if options.largest else [])}):
        dataset, drawn = f"spectrum, n = {n:,}, codes", source(options, "spectrum")
        sizes = [min(CHUNK, n - low) for low in range(0, n, CHUNK)]
        wanted = [bits for bits in BITS[1:] if cell(dataset, f"SimHash {bits}", 0) not in done]
        if not wanted:
            continue
        asked = torch.randperm(sizes[0], generator=torch.Generator().manual_seed(0))[:QUERIES]
        queries = functional.normalize(drawn.chunk(0, sizes[0])[asked], dim=1)
        hashes = {bits: SimHash(SIZE, bits, seed=0) for bits in wanted}
        codes: dict[int, list[Tensor]] = {bits: [] for bits in wanted}
        seconds, exact_seconds, best = dict.fromkeys(wanted, 0.0), 0.0, (torch.zeros(QUERIES, 0), asked[:, None][:, :0])
        for number, size in enumerate(sizes):
            units = functional.normalize(drawn.chunk(number, size), dim=1)
            exact = ExactSelector()
            exact.fit(units, torch.arange(number * CHUNK + 2, number * CHUNK + size + 2))
            exact.search(queries[:1], K)
            start = time.process_time()
            top = exact.search(queries, K, asked + 2)
            exact_seconds += time.process_time() - start
            values, order = torch.cat([best[0], top.scores], 1).topk(K)
            best = values, torch.cat([best[1], top.rows - 2], 1).gather(1, order)
            for bits, simhash in hashes.items():
                if not number:
                    simhash.fit(units)  # a million rows know the mean
                start = time.process_time()
                codes[bits].append(simhash.codes(units))
                seconds[bits] += time.process_time() - start
        del exact, units
        for bits in wanted:
            index = HammingIndex(torch.cat(codes.pop(bits)))
            asked_codes = hashes[bits].query_codes(queries)
            found = index.search(asked_codes, max(SHORTLISTS) + 1)[0]
            found = found[found != asked[:, None]].view(QUERIES, -1)
            alone = [cpu(lambda i=index, q=asked_codes[j : j + 1]: i.search(q, 41)) for j in range(ALONE)]
            read = 8 * index.codes.numel()
            metrics = {
                "codes_s": seconds[bits],
                "ms_a_query": 1e3 * cpu(lambda i=index, q=asked_codes: i.search(q, 41), 3) / QUERIES,
                "ms_alone": 1e3 * statistics.median(alone),
                "exact_ms": 1e3 * exact_seconds / QUERIES,
                "recall@10": share(found[:, :K], best[1]),
                **{f"re-ranked {m}": share(found[:, :m], best[1]) for m in SHORTLISTS},
                "mb": read / 1e6,
                # Reading all codes at the machine's bandwidth; one population count a cycle at 2.6 GHz.
                "floor_read_ms": 1e3 * read / options.bandwidth,
                "floor_count_ms": 1e3 * index.codes.numel() / 2.6e9,
            }
            yield result_row(dataset, f"SimHash {bits}", 0, metrics, protocol={"part": "codes", "n": n})
            del index


SOURCES: dict[str, Drawn] = {}


def source(options: argparse.Namespace, world: str) -> Drawn:
    """Draws like the item vectors of the last data set."""
    if world not in SOURCES:
        SOURCES[world] = Drawn(learned(options.datasets[-1])[0].vectors, world, seed=0)
    return SOURCES[world]


def bandwidth() -> float:
    """Bytes a second that one thread reads."""
    block = torch.ones(1 << 26)
    return 4 * len(block) / cpu(block.sum, 5)


def cell(dataset: str, system: str, seed: int) -> str:
    """The name of a cell."""
    return f"{dataset}|{system}|{seed}"


NOTES = {
    "learned": (
        "Against the exact metric of its line, the query's own row left out, 1,000 queries; re-ranked m: the m best by",
        "agreement put in exact order. Centred: the mean of the pool's unit vectors taken out of pool and queries",
        "(inner product: that of the pool's vectors, out of the pool alone). 64 coordinates: singular vectors of the",
        "train interactions, each by the root of its singular value.",
    ),
    "speed": (
        f"ms_a_query: in a batch of {QUERIES}; ms_alone: one query at a time, of which .5 to 1 ms is the overhead of",
        "some dozens of small operations on a busy machine. times_exact and times_plain: how many times faster than",
        "ExactSelector and than a product with top-k by blocks, in the batch. recall@10 against exact cosine. fit_s:",
        "snapshot, codes and search structure. mb: buffers; FAISS holds its codes or vectors once more. spectrum:",
        "normal draws with mean and covariance of learned unit vectors, no local structure: the true ten hardly",
        "stand out; clustered: learned rows with noise of half the distance to their nearest neighbour.",
    ),
    "table": ("CPU seconds for all n lists of ten, building included; recall@10 of 1,000 of them.",),
    "codes": (
        "codes_s: all codes; the search fetches 41 by FAISS, flat. exact_ms: ExactSelector over the same rows, chunk",
        "by chunk. floor_read_ms: all codes read once at the measured bandwidth of one thread; a batch reads them once",
        "for many queries. floor_count_ms: one population count a word and cycle. FAISS needs about a nanosecond a",
        "code, for codes in cache too: its loop over codes is the limit, not memory.",
    ),
}


def page(rows: Sequence[Row]) -> list[str]:
    """The lines of selection.md."""
    shortlists = tuple(f"re-ranked {m}" for m in SHORTLISTS)
    floors = ("floor_read_ms", "floor_count_ms")
    columns = {
        "learned": ("recall@10", *shortlists),
        "speed": ("ms_a_query", "ms_alone", "times_exact", "times_plain", "recall@10", "fit_s", "mb"),
        "table": ("table_s", "fit_s", "recall@10"),
        "codes": ("codes_s", "ms_a_query", "ms_alone", "exact_ms", "recall@10", *shortlists, "mb", *floors),
    }
    titles = {
        "learned": "Learned tables: how many of the exact ten SimHash finds",
        "speed": "Drawn vectors: time, memory, recall",
        "table": "The neighbours of all rows",
        "codes": "Codes and Hamming search alone",
    }
    lines: list[str] = []
    for part in PARTS:
        here = [row for row in rows if row["protocol"]["part"] == part]
        if here:
            lines += [f"## {titles[part]}", "", *table(with_ratios(here), columns[part], 3), "", *NOTES[part], ""]
    return lines


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """The rows with how many times faster each is than the exact selector and the plain product beside it."""
    times = {(row["dataset"], row["system"]): row["metrics"].get("ms_a_query") for row in rows}
    done = []
    for row in rows:
        metrics = dict(row["metrics"])
        for name, other in (("times_exact", "exact"), ("times_plain", "plain product")):
            if times.get((row["dataset"], other)) and row["system"] != other:
                metrics[name] = times[row["dataset"], other] / metrics["ms_a_query"]
        done.append({**row, "metrics": metrics})
    return done


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what is missing, prints, writes after every cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the projection, part learned")
    parser.add_argument("--no-largest", dest="largest", action="store_false", help="without 10^7 codes")
    parser.add_argument("--quick", action="store_true", help="one data set, n = 10,000, one seed")
    parser.add_argument("--again", action="store_true", help="measure all cells again")
    parser.add_argument("--page", action="store_true", help="only write the page again")
    parser.add_argument("--folder", type=Path, help="where to write (docs/results)")
    options = parser.parse_args(arguments)
    refuse_quick_look(parser, options, "quick")
    if options.quick:
        options.datasets, options.sizes, options.seeds, options.largest = options.datasets[:1], [10_000], [0], False
    torch.set_num_threads(1)
    import_faiss().omp_set_num_threads(1)
    options.bandwidth = bandwidth()
    rows: list[Row] = published("selection", options.folder)["rows"]
    done = set() if options.again else {cell(row["dataset"], row["system"], row["seed"]) for row in rows}
    protocol = {
        "threads": 1,
        "k": K,
        "vectors": f"{SIZE} coordinates; drawn like the item vectors of {options.datasets[-1]}",
        "time": "CPU time of a machine that does other work, whose caches and memory it shares; median of three",
        "bandwidth_gb_s": round(options.bandwidth / 1e9, 1),
    }
    measure = {"learned": learned_part, "speed": speed_part, "table": table_part, "codes": codes_part}
    for part in [] if options.page else options.parts:
        for row in measure[part](options, done):
            rows = with_published("selection", [row], options.folder)
            print(row["dataset"], row["system"], {k: round(v, 4) for k, v in row["metrics"].items()}, flush=True)
            write_results("selection", rows, protocol, page(rows), options.folder)
    write_results("selection", rows, protocol, page(rows), options.folder)
    print("\n".join(page(rows)))


if __name__ == "__main__":
    main()
