"""What does a cooperative step cost, against its two halves alone, as the catalogue grows, and against the floor?

One core, batch 256 examples, 20 negatives, synthetic events, ids only; d = 128, DIN 128-64, FC 128-128 (the sizes
of the public CoRR code, which trains 125-135 examples a second) and d = 64, DIN 32-16, FC 64-32.

    python benchmarks/bench_cooperation.py
    python benchmarks/bench_cooperation.py --parts steps growth --steps 3 --folder runs     # a quick look

Parts: ``steps`` (examples a second; the cooperative step over the two independent ones), ``growth`` (catalogues of
10^4 to 10^6 items, sparse tables), ``profile`` (where the time goes, and the floor), ``sampler`` (refresh and draws).
Prints tables and writes docs/results/cooperation.json and cooperation.md. One thread; CPU time, median over steps.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from results import Row, refuse_quick_look, result_row, table, with_published, write_results
from torch import Tensor, nn

from corral.corr.multi_index_sampler import MultiIndexSampler
from corral.corr.objective import CooperativeObjective
from corral.corr.stages import Stages
from corral.data.batches import Batch, Query, SequenceBatch
from corral.data.positions import queries_at
from corral.ranking.ctr.din import DIN
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker
from corral.retrieval.matrix_factorization import MatrixFactorization
from corral.retrieval.sasrec import SASRec
from corral.retrieval.two_tower import TwoTower
from corral.sampling.exact_softmax import ExactSoftmaxSampler
from corral.sampling.uniform import UniformSampler
from corral.training.losses import sampled_softmax
from corral.training.optimizers import RowWiseAdam
from corral.training.retrieval_objectives import SampledSoftmaxObjective

EXAMPLES, NEGATIVES, LENGTH, USERS, CODEWORDS = 256, 20, 50, 10_000, 32
# d, attention of DIN, fully connected layers; the goal in examples a second.
SIZES = {
    "d=128, DIN 128-64, FC 128-128": (128, (128, 64), (128, 128), 1_200),
    "d=64, DIN 32-16, FC 64-32": (64, (32, 16), (64, 32), 5_000),
}
PUBLIC, SMALL = SIZES
PRECISIONS = {"float32": False, "bfloat16": True}
CATALOGUES = (10_000, 100_000, 1_000_000)
PARTS = ("steps", "growth", "profile", "sampler")


@dataclass(frozen=True)
class Shape:
    """What 256 examples are made of.

    Attributes:
        retriever: its kind.
        windows: whole sequences in a batch; 0: single events.
        slots: events of a window.
        targets: of them are clicked items to predict: the last so many.
        shortest: windows have this many to ``slots`` events; 0: all have ``slots``.
        more: how many more than ``shortest`` on average, falling off exponentially; 0: every number alike.
    """

    retriever: str
    windows: int = 0
    slots: int = 0
    targets: int = 0
    shortest: int = 0
    more: float = 0.0


# Windows are what recipes train on: the ranker's histories are the 0 to 49 items before each position.
SHAPES = {
    "SASRec, short windows": Shape("sasrec", windows=37, slots=50, targets=50, shortest=3, more=4.0),
    "SASRec, windows of 5 to 50": Shape("sasrec", windows=9, slots=50, targets=50, shortest=5),
    "SASRec, windows of 50": Shape("sasrec", windows=6, slots=50, targets=50),
    "SASRec, 50 before each": Shape("sasrec", windows=16, slots=66, targets=16),
    "two towers, single events": Shape("two-tower"),
    "MF, single events": Shape("mf"),
}
SHORT, VARIED, WINDOWS, FULL = list(SHAPES)[:4]


def draw_batch(shape: Shape, items: int, generator: torch.Generator) -> Batch | SequenceBatch:
    """Users and items uniform: the most distinct rows that a batch can touch."""
    if not shape.windows:
        user = torch.randint(2, USERS, (EXAMPLES,), generator=generator)
        history = torch.randint(2, items + 2, (EXAMPLES, LENGTH + 1), generator=generator)
        query = Query(user, user, history[:, :-1], user)
        return Batch(query, history[:, -1], torch.ones(EXAMPLES))
    size = (shape.windows, shape.slots)
    user = torch.randint(2, USERS, size[:1], generator=generator)
    rows = torch.randint(2, items + 2, size, generator=generator)
    event = torch.arange(rows.numel()).view(size)
    before = torch.arange(shape.slots).expand(size).contiguous()
    target = torch.zeros(size, dtype=torch.bool)
    target[:, -shape.targets :] = True
    if shape.shortest:
        length = torch.randint(shape.shortest, shape.slots + 1, size[:1], generator=generator)
        if shape.more:
            tail = torch.empty(size[:1]).exponential_(1 / (shape.more + 0.5), generator=generator)
            length = (shape.shortest + tail.long()).clamp(max=shape.slots)
        # No wider than the longest: as the loader does.
        rows, before, target, event = (one[:, -int(length.max()) :] for one in (rows, before, target, event))
        before = torch.arange(rows.shape[1]).expand(rows.shape).contiguous()
        real = before >= rows.shape[1] - length[:, None]
        rows, target = rows.masked_fill(~real, 0), target & real
    else:
        # Exactly 256 examples, whatever the windows give.
        target.view(-1)[target.view(-1).nonzero()[EXAMPLES:, 0]] = False
    return SequenceBatch(user, rows, event, event, before, target)


def examples_of(batch: Batch | SequenceBatch) -> int:
    """How many clicked items a batch holds: 256, or about that many where windows vary."""
    return len(batch) if isinstance(batch, Batch) else int(batch.target_mask.sum())


class RankerAlone(nn.Module):
    """The independent ranker: uniform negatives, the same loss; no retriever is asked for anything."""

    def __init__(self, ranker: nn.Module, catalogue: Tensor) -> None:
        super().__init__()
        self.ranker, self.sampler = ranker, UniformSampler(catalogue)
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, batch: Batch | SequenceBatch) -> dict[str, Tensor]:
        """L_ra."""
        if isinstance(batch, Batch):
            query, target = batch.query, batch.item
        else:
            row, slot = batch.target_mask.nonzero(as_tuple=True)
            query, target = queries_at(batch, row, slot, LENGTH), batch.items[row, slot]
        drawn = self.sampler.sample(target[:, None], NEGATIVES, self.generator)
        log_q = self.sampler.log_q(target[:, None], target[:, None])[:, 0]
        logits = self.ranker(query, torch.cat([target[:, None], drawn.items], 1))
        hit = drawn.items == target[:, None]
        return {"total": sampled_softmax(logits[:, 0], logits[:, 1:], log_q, drawn.log_q, hit)}


def models(shape: Shape, size: str, items: int, sparse: bool) -> tuple[nn.Module, FieldRanker]:
    """Both stages, untrained."""
    d, attention, hidden, _ = SIZES[size]
    retriever: nn.Module
    if shape.retriever == "sasrec":
        retriever = SASRec(items + 2, size=d, max_length=shape.slots, sparse=sparse)
    elif shape.retriever == "mf":
        retriever = MatrixFactorization(USERS, items + 2, size=d, sparse=sparse)
    else:
        retriever = TwoTower(USERS, items + 2, size=d, sparse=sparse)
    fields = Fields(USERS, items + 2, field_size=d, sparse=sparse)
    din = DIN(d, fields.num_context_fields, fields.num_item_fields, attention_hidden=attention, hidden=hidden)
    return retriever, FieldRanker(fields, din, history_length=LENGTH)


def cooperative(shape: Shape, size: str, items: int, sparse: bool = False) -> CooperativeObjective:
    """CoRR as the paper has it; the sampler is built."""
    torch.manual_seed(0)
    retriever, ranker = models(shape, size, items, sparse)
    catalogue = torch.arange(2, items + 2)
    sampler = MultiIndexSampler(catalogue, size=SIZES[size][0], num_codewords=CODEWORDS)
    objective = CooperativeObjective(
        Stages(retriever, ranker, catalogue, history_length=LENGTH), sampler, num_negatives=NEGATIVES
    )
    objective.refresh()
    return objective


def alone(both: CooperativeObjective, shape: Shape, size: str, items: int) -> tuple[nn.Module, nn.Module]:
    """The two independent objectives: the same losses, sizes and N; the retriever with the same sampler."""
    retriever, ranker = models(shape, size, items, sparse=False)
    catalogue = both.stages.catalogue
    sampler = MultiIndexSampler(catalogue, size=SIZES[size][0], num_codewords=CODEWORDS)
    sampler.load_state_dict(both.sampler.state_dict())  # type: ignore[attr-defined]
    return (
        SampledSoftmaxObjective(retriever, catalogue, sampler, num_negatives=NEGATIVES),
        RankerAlone(ranker, catalogue),
    )


def milliseconds(work: Callable[[], object]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


class Training:
    """Steps as ``fit`` makes them."""

    def __init__(self, objective: nn.Module, low: bool) -> None:
        self.objective, self.low = objective, low
        self.optimizer = RowWiseAdam(objective)

    def step(self, batch: Batch | SequenceBatch) -> None:
        """Forward, backward, clipped update."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.low):
            losses = self.objective(batch)
        self.optimizer.zero_grad()
        losses["total"].backward()
        self.optimizer.step()


def steps_part(seed: int, steps: int, wanted: str = "") -> list[Row]:
    """Examples a second, and the cooperative step over the sum of both alone; systems take turns.

    Args:
        seed: of the batches.
        steps: that are measured.
        wanted: only shapes whose name contains this.
    """
    rows = []
    for size, (_, _, _, goal) in SIZES.items():
        for name, shape in ((name, shape) for name, shape in SHAPES.items() if wanted in name):
            for precision, low in PRECISIONS.items():
                items = CATALOGUES[0]
                both = cooperative(shape, size, items)
                trained = [Training(one, low) for one in (both, *alone(both, shape, size, items))]
                generator = torch.Generator().manual_seed(seed)
                # Milliseconds an example. A batch for each, or the first would compile products for the others.
                spent: list[list[float]] = []
                for number in range(steps + 1):
                    batches = [draw_batch(shape, items, generator) for _ in trained]
                    times = [
                        milliseconds(lambda one=one, batch=batch: one.step(batch)) / examples_of(batch)  # type: ignore[misc]
                        for one, batch in zip(trained, batches, strict=True)
                    ]
                    spent += [times] if number else []
                whole, first, second = (statistics.median(column) for column in zip(*spent, strict=True))
                found = {
                    "examples_per_second": 1e3 / whole,
                    "best_examples_per_second": 1e3 / min(times[0] for times in spent),
                    "goal": float(goal),
                    "cooperative_ms": EXAMPLES * whole,
                    "retriever_alone_ms": EXAMPLES * first,
                    "ranker_alone_ms": EXAMPLES * second,
                    "ratio": whole / (first + second),
                }
                rows.append(result_row(f"{name}; {precision}", size, seed, found, protocol={"part": "steps"}))
                print(rows[-1]["dataset"], size, {key: round(value, 2) for key, value in found.items()}, flush=True)
    return rows


def peak_megabytes() -> float:
    """The largest resident memory of this process so far.

    Linux: of the program itself; what ``getrusage`` tells there may be that of the process which started it.
    """
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="ascii").splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def memory(items: int, replies: multiprocessing.Queue[dict[str, float]]) -> None:
    """Megabytes of tables, their Adam moments and the sampler, and the peak of a process that makes two steps."""
    torch.set_num_threads(1)
    begun = peak_megabytes()
    both = cooperative(SHAPES[FULL], SMALL, items, sparse=True)
    training, generator = Training(both, low=False), torch.Generator().manual_seed(0)
    for _ in range(2):
        training.step(draw_batch(SHAPES[FULL], items, generator))
    tables = [one.weight for one in both.modules() if isinstance(one, nn.Embedding)]
    buffers = both.sampler.buffers()  # type: ignore[attr-defined]
    replies.put(
        {
            "tables_mb": sum(one.numel() * 4 for one in tables) / 1e6,
            "moments_mb": sum(one.numel() * 8 for one in tables) / 1e6,
            "sampler_mb": sum(one.numel() * one.element_size() for one in buffers) / 1e6,
            "imports_mb": begun,
            "peak_mb": peak_megabytes(),
        }
    )


def growth_part(seed: int, steps: int) -> list[Row]:
    """The step with sparse tables on catalogues of 10^4 to 10^6 items; sizes take turns."""
    low, trained, refreshed, peaks = True, {}, {}, {}
    processes = multiprocessing.get_context("spawn")
    for items in CATALOGUES:
        replies = processes.Queue()
        child = processes.Process(target=memory, args=(items, replies))
        child.start()
        peaks[items] = replies.get()
        child.join()
    for items in CATALOGUES:
        both = cooperative(SHAPES[FULL], SMALL, items, sparse=True)
        refreshed[items] = milliseconds(both.refresh)
        trained[items] = Training(both, low)
    spent: dict[int, list[float]] = defaultdict(list)
    distinct: dict[int, list[int]] = defaultdict(list)
    generator = torch.Generator().manual_seed(seed)
    for number in range(steps + 1):
        for items, training in trained.items():
            batch = draw_batch(SHAPES[FULL], items, generator)
            time_of_step = milliseconds(lambda one=training, batch=batch: one.step(batch))  # type: ignore[misc]
            if number:
                spent[items].append(time_of_step)
                fields = training.objective.stages.ranker.fields  # type: ignore[union-attr]
                gradient = fields.catalogue.id_tables()[0].weight.grad  # type: ignore[operator, union-attr]
                distinct[items].append(gradient.coalesce().indices().shape[1])
    rows = []
    for items in CATALOGUES:
        pairs = zip(spent[items], spent[CATALOGUES[0]], strict=True)
        found = {
            "step_ms": statistics.median(spent[items]),
            "over_10^4": statistics.median(one / small for one, small in pairs),
            "distinct_item_rows": statistics.mean(distinct[items]),
            "refresh_ms": refreshed[items],
            **peaks[items],
        }
        rows.append(result_row(f"{items:,} items", f"{SMALL}, bfloat16", seed, found, protocol={"part": "growth"}))
        print(rows[-1]["dataset"], {key: round(value, 2) for key, value in found.items()}, flush=True)
    return rows


def core_speed(size: str, low: bool) -> tuple[float, float]:
    """This core's FLOP/s at the shape of DIN's largest product, and its bytes/s in copying what no cache holds."""
    d, attention, _, _ = SIZES[size]
    kind = torch.bfloat16 if low else torch.float32
    left, right = torch.randn(16_384, d).to(kind), torch.randn(d, attention[0]).to(kind)
    out = left @ right
    quickest = min(milliseconds(lambda: torch.mm(left, right, out=out)) for _ in range(15))
    there, back = torch.zeros(32_000_000), torch.ones(32_000_000)
    moved = min(milliseconds(lambda: back.copy_(there)) for _ in range(5))
    return 2 * left.numel() * attention[0] / quickest * 1e3, 2 * there.numel() * 4 / moved * 1e3


def floor(
    shape: Shape, size: str, speed: tuple[float, float], low: bool, batch: Batch | SequenceBatch
) -> dict[str, float]:
    """What the arithmetic alone would take.

    FLOPs and bytes counted as ``ABOUT_FLOOR`` says.
    """
    d, attention, hidden, _ = SIZES[size]
    examples = examples_of(batch)
    pairs = (1 + NEGATIVES) * examples * LENGTH
    if isinstance(batch, SequenceBatch):
        row, slot = batch.target_mask.nonzero(as_tuple=True)
        pairs = (1 + NEGATIVES) * int((slot - (batch.items == 0).sum(1)[row]).clamp(max=LENGTH).sum())
    attend = 2 * (d * attention[0] + attention[0] * attention[1] + attention[1] + d) * pairs
    mlp = 2 * (3 * d * hidden[0] + hidden[0] * hidden[1] + hidden[1]) * (1 + NEGATIVES) * examples
    tokens = int((batch.items != 0).sum()) if isinstance(batch, SequenceBatch) else 0
    encode = 2 * 2 * (12 * d * d + 2 * d * shape.slots / 2) * tokens
    rate, bandwidth = speed
    width = 2 if low else 4
    lookups = 2 * (1 + NEGATIVES) * examples + tokens + pairs / (1 + NEGATIVES)
    moved = 2 * pairs * sum(attention) * width + lookups * d * 4 * 8
    return {
        "gflop": 3 * (attend + mlp + encode) / 1e9,
        "din_gflop": 3 * attend / 1e9,
        "moved_mb": moved / 1e6,
        "core_gflops": rate / 1e9,
        "core_gb_per_second": bandwidth / 1e9,
        "floor_ms": 1e3 * (3 * (attend + mlp + encode) / rate + moved / bandwidth),
    }


def profile_part(seed: int, steps: int) -> list[Row]:
    """The step cut in pieces, each timed by itself with a gradient of its own; and the floor."""
    rows = []
    for size in SIZES:
        for name in (SHORT, VARIED, WINDOWS, FULL):
            for precision, low in PRECISIONS.items():
                both = cooperative(SHAPES[name], size, CATALOGUES[0])
                generator = torch.Generator().manual_seed(seed)
                training = Training(both, low)
                speed = core_speed(size, low)
                spent: dict[str, list[float]] = defaultdict(list)
                for number in range(steps + 1):
                    batch = draw_batch(SHAPES[name], CATALOGUES[0], generator)
                    pieces = step_in_pieces(training, batch)
                    pieces |= floor(SHAPES[name], size, speed, low, batch)
                    for piece, value in pieces.items() if number else ():
                        spent[piece].append(value)
                found = {piece: statistics.median(values) for piece, values in spent.items()}
                found["over_floor"] = found["step"] / found["floor_ms"]
                facts = {"part": "profile"}
                rows.append(result_row(f"{name}; {precision}", size, seed, found, protocol=facts))
                print(rows[-1]["dataset"], size, {key: round(value, 1) for key, value in found.items()}, flush=True)
    return rows


def step_in_pieces(training: Training, batch: Batch | SequenceBatch) -> dict[str, float]:
    """Milliseconds of a whole step and of its pieces; "rest" is losses, gathering, and what is timed nowhere."""
    both: CooperativeObjective = training.objective  # type: ignore[assignment]
    stages, found, made = both.stages, {}, {}

    def timed(name: str, work: Callable[[], object]) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=training.low):
            found[name] = milliseconds(lambda: made.update({name: work()}))

    def backward(name: str, value: Tensor) -> None:
        training.optimizer.zero_grad()
        gradient = torch.randn_like(value)
        found[name] = milliseconds(lambda: value.backward(gradient))

    found["step"] = milliseconds(lambda: training.step(batch))
    timed("retriever forward", lambda: stages.encode(batch))
    encoded = made["retriever forward"]
    queries, own = encoded.queries.detach(), encoded.target[:, None]
    timed("draws", lambda: both.sampler.sample(queries, NEGATIVES, both.generator))
    timed("log Q of clicked", lambda: both.sampler.log_q(queries, own))
    items = torch.cat([own, made["draws"].items], 1)
    timed("scores", lambda: stages.scores(encoded.queries, items))
    timed("ranker forward", lambda: stages.logits(encoded.query, items, made["scores"]))
    backward("ranker backward", made["ranker forward"])
    backward("retriever backward", made["scores"])
    # Updates: all gradients of a step, then the optimizer alone.
    training.optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=training.low):
        both(batch)["total"].backward()
    found["optimizer"] = milliseconds(training.optimizer.step)
    found["retriever forward"] += found.pop("scores")
    found["sampler"] = found.pop("draws") + found.pop("log Q of clicked")
    found["rest"] = found["step"] - sum(value for piece, value in found.items() if piece != "step")
    return found


def sampler_part(seed: int, steps: int) -> list[Row]:
    """Refresh and draws of the multi-index; draws of the exact softmax beside it."""
    rows = []
    for items in (2_400, 12_000, 100_000, 1_000_000):
        for words in (8, 32, None):
            if words is None and items > 100_000:
                continue
            name = "exact softmax" if words is None else f"midx K={words}"
            found = sampler_times(items, words, seed, steps)
            rows.append(result_row(f"{items:,} items", name, seed, found, protocol={"part": "sampler"}))
            print(rows[-1]["dataset"], name, {key: round(value, 2) for key, value in found.items()}, flush=True)
    return rows


def sampler_times(items: int, words: int | None, seed: int, steps: int) -> dict[str, float]:
    """One sampler; ``words`` None: the exact softmax."""
    catalogue, d = torch.arange(2, items + 2), SIZES[SMALL][0]
    generator = torch.Generator().manual_seed(seed)
    # Vectors without any structure: k-means takes the most steps. Then an epoch's drift.
    vectors = torch.randn(items, d, generator=generator) * d**-0.5
    queries = 2 * torch.randn(EXAMPLES, d, generator=generator)
    if words is None:
        exact = ExactSoftmaxSampler(catalogue, size=d)
        found = {"first_refresh_ms": milliseconds(lambda: exact.refresh(vectors))}
        return found | {"draw_ms": draws(exact, queries, generator, min(steps, 3))}
    sampler = MultiIndexSampler(catalogue, size=d, num_codewords=words)
    found = {"first_refresh_ms": milliseconds(lambda: sampler.refresh(vectors))}
    vectors += 0.1 * d**-0.5 * torch.randn(items, d, generator=generator)
    found["next_refresh_ms"] = milliseconds(lambda: sampler.refresh(vectors))
    found["draw_ms"] = draws(sampler, queries, generator, steps)
    own = catalogue[:EXAMPLES, None]
    found["log_q_ms"] = statistics.median(milliseconds(lambda: sampler.log_q(queries, own)) for _ in range(steps))
    return found


def draws(
    sampler: MultiIndexSampler | ExactSoftmaxSampler, queries: Tensor, generator: torch.Generator, steps: int
) -> float:
    """Milliseconds for N draws of every query, the first call left out."""
    spent = [milliseconds(lambda: sampler.sample(queries, NEGATIVES, generator)) for _ in range(steps + 1)]
    return statistics.median(spent[1:])


PIECES = ("retriever forward", "retriever backward", "sampler", "ranker forward", "ranker backward")
PIECES += ("optimizer", "rest")
ABOUT = """\
One core, CPU time, median over steps; 256 examples, 20 negatives from MIDX (K = 32), 10,000 items unless said
otherwise; users and items uniform, ids only. Loading of data is not in it. Shapes of a batch:

- *SASRec, short windows*: 37 windows of 7 events on average (at least 3, exponential tail, at most 50), about 256 in
  all: as on the Amazon sets; one pass of the retriever for all positions, the ranker reads the items before each.
  No two batches have the same shapes, as in training: in bfloat16 every product of matrices of a new shape is compiled
  first (oneDNN, .4 to 1.5 ms each).
- *SASRec, windows of 5 to 50*: nine windows, every length alike; histories of 16 on average.
- *SASRec, windows of 50*: the same with full windows; the ranker reads 24 items on average.
- *SASRec, 50 before each*: 16 windows of 66 events, the last 16 are targets: every example has 50 items of history.
- *Single events*: 50 items of history each, one query an event. MF reads none of it, its ranker does.

The machine was shared with other work, so cache and bandwidth were not its own; `best` is the quietest step."""
ABOUT_RATIO = """\
ratio: the cooperative step over retriever alone (same loss, sampler, N) + ranker alone (uniform negatives, same loss,
N), each with its own optimizer; systems take turns, each with batches of its own. Milliseconds for 256 examples."""
ABOUT_GROWTH = """\
distinct_item_rows: what a step of the ranker's table touches; items are uniform, so 10^4 of them repeat in a batch and
10^6 do not. peak_mb: resident memory of a fresh process that refreshes and makes two steps in float32; imports_mb of it
were there before any model."""
ABOUT_FLOOR = """\
floor_ms: the FLOPs of matrix products (DIN, its MLP, SASRec; one forward and two backward) at this core's measured rate
for DIN's largest product, plus bytes at its measured copying rate: DIN's hidden activations written and read once, rows
of tables read, their gradients written, and row, mean and variance read and written by Adam. Nothing for element-wise
work, dropout, normalisation, compilation of products, and calls. Pieces are timed by themselves, each with a gradient
of its own; rest is the step less its pieces: losses, what backward does between the stages, first touches of memory. In
bfloat16 the step pays for the compilation of new shapes, and its pieces, timed after it, find them compiled."""
ABOUT_SAMPLER = """\
first_refresh: k-means++ and up to 30 steps of Lloyd on vectors without structure, the worst case; next: from the last
codewords, vectors moved by a tenth. log_q: of one given item a query."""


def goals(parts: Mapping[str, Sequence[Row]]) -> list[str]:
    """Goals, met or not, from the rows themselves."""
    lines = ["## Goals", ""]

    def say(goal: str, value: float, bound: float, most: bool, where: str) -> None:
        met = value <= bound if most else value >= bound
        lines.append(f"- {goal}: {value:,.{2 if bound < 100 else 0}f} ({where}): {'met' if met else '**missed**'}.")

    for size, (_, _, _, goal) in SIZES.items():
        for name in SHAPES:
            of = [row for row in parts["steps"] if row["system"] == size and row["dataset"].startswith(f"{name};")]
            if of:
                best = max(of, key=lambda row: row["metrics"]["examples_per_second"])
                value = best["metrics"]["examples_per_second"]
                say(f"{size}: at least {goal:,} examples a second", value, goal, False, best["dataset"])
    if parts["steps"]:
        worst = max(parts["steps"], key=lambda row: row["metrics"]["ratio"])
        where = f"the largest of {len(parts['steps'])}: {worst['dataset']}; {worst['system']}"
        value = worst["metrics"]["ratio"]
        say("a cooperative step over the two independent ones, at most 1.25", value, 1.25, True, where)
    if parts["growth"]:
        value = parts["growth"][-1]["metrics"]["over_10^4"]
        say("10^6 items over 10^4, at most 1.3", value, 1.3, True, "refresh apart")
    return lines


def page(rows: Sequence[Row]) -> list[str]:
    """The lines of cooperation.md."""
    parts = {part: [row for row in rows if row["protocol"]["part"] == part] for part in PARTS}
    lines = [*ABOUT.splitlines(), "", *goals(parts)]
    shown = {
        "steps": (
            "Steps",
            (
                "examples_per_second",
                "best_examples_per_second",
                "goal",
                "cooperative_ms",
                "retriever_alone_ms",
                "ranker_alone_ms",
                "ratio",
            ),
            ABOUT_RATIO,
        ),
        "growth": (
            f"Growth: {FULL}, sparse tables",
            (
                "step_ms",
                "over_10^4",
                "distinct_item_rows",
                "refresh_ms",
                "tables_mb",
                "moments_mb",
                "sampler_mb",
                "imports_mb",
                "peak_mb",
            ),
            ABOUT_GROWTH,
        ),
        "profile": (
            "Where the time goes (milliseconds)",
            ("step", *PIECES, "gflop", "din_gflop", "moved_mb", "core_gflops", "floor_ms", "over_floor"),
            ABOUT_FLOOR,
        ),
        "sampler": (
            "Sampler: 256 queries, 20 draws, d = 64",
            ("first_refresh_ms", "next_refresh_ms", "draw_ms", "log_q_ms"),
            ABOUT_SAMPLER,
        ),
    }
    for part, (title, columns, about) in shown.items():
        if parts[part]:
            lines += ["", f"## {title}", "", *table(parts[part], columns, digits=2), "", *about.splitlines()]
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--shapes", default="", help="part steps: only those whose name contains this")
    parser.add_argument("--folder", type=Path, help="where to write (docs/results)")
    options = parser.parse_args(arguments)
    refuse_quick_look(parser, options, "steps")
    torch.set_num_threads(1)
    steps_of = partial(steps_part, wanted=options.shapes)
    work = {"steps": steps_of, "growth": growth_part, "profile": profile_part, "sampler": sampler_part}
    rows: list[Row] = []
    for seed in options.seeds:
        for part in options.parts:
            rows += work[part](seed, options.steps)
    rows = with_published("cooperation", rows, options.folder, within="part")
    protocol = {
        "threads": 1,
        "time": "CPU time of the process, median over steps",
        "examples": EXAMPLES,
        "negatives": NEGATIVES,
        "history": LENGTH,
        "users": USERS,
        "codewords": CODEWORDS,
        "steps": options.steps,
    }
    shown = page(rows)
    print("\n".join(shown))
    write_results("cooperation", rows, protocol, shown, options.folder)


if __name__ == "__main__":
    main()
