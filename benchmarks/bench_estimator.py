"""How far is the sampled distillation loss from the KL it estimates, and what do samplers draw?

Part ``toy``: one query, scores and logits known for all items (300 and 5,000), the samplers themselves; bias of
L_KD over N and proposals, with log Q and without. Part ``trained``: the same on a finished run of bench_corr, on
queries of validation; false negatives and effective sample size of every sampler; KL and rank agreement of the two
stages with and without cooperation, from all finished runs on the same data.

    python benchmarks/bench_estimator.py
    python benchmarks/bench_estimator.py --run runs/corr/amazon-beauty-7core-corr-plain-0 --folder runs
    python benchmarks/bench_estimator.py --parts toy --draws 100000 --folder runs            # a quick look

Part ``trained`` needs CORRAL_DATA. Writes docs/results/estimator.json and estimator.md. One thread.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from results import ROOT, Row, refuse_quick_look, result_row, table, with_published, write_results
from torch import Tensor

from corral.cli.experiment import Experiment
from corral.cli.ranker_stage import train_ranker
from corral.cli.retriever_stage import train_retriever
from corral.cli.together_stage import train_together
from corral.corr.distillation import distillation_terms, effective_sample_size, full_kl
from corral.corr.multi_index_sampler import MultiIndexSampler
from corral.corr.stages import Stages
from corral.data.batches import Query
from corral.data.split import Part
from corral.sampling.exact_softmax import ExactSoftmaxSampler
from corral.sampling.popularity import PopularitySampler
from corral.sampling.sampler import Sampler
from corral.sampling.top_k import TopKRandomSampler, TopKSampler
from corral.sampling.uniform import UniformSampler

RUN = ROOT / "runs" / "corr" / "amazon-beauty-7core-corr-0"
SIZES = (20, 100, 500, 2000)
REPLICATES, QUERIES, TOP = 1_500, 250, 100
# Systems whose two stages are compared: trained apart, one after the other, and together.
APART = ("independent-bce", "independent-softmax", "independent-midx", "two-stage")
TOGETHER = ("corr-no-kd", "corr", "corr-plain")
COMPARED = tuple(name for system in APART for name in (f"{system}-plain", system)) + TOGETHER
PARTS = ("toy", "trained")


@dataclass(frozen=True)
class Known:
    """What both stages say of all items, for Q queries.

    Attributes:
        queries: the retriever's query vectors [Q, D].
        vectors: its item vectors, in the catalogue's order [M, D].
        scores: [Q, M].
        logits: the ranker's [Q, M].
        catalogue: item rows [M].
    """

    queries: Tensor
    vectors: Tensor
    scores: Tensor
    logits: Tensor
    catalogue: Tensor


def toy(items: int, seed: int, size: int = 32) -> Known:
    """One query; logits that follow its scores in part."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(items, size, generator=generator)
    query = torch.randn(1, size, generator=generator)
    query = 1.5 * query / query.norm()
    scores = query @ vectors.T
    logits = 0.5 * scores + 0.8 * torch.randn(1, items, generator=generator)
    return Known(query, vectors, scores, logits, torch.arange(2, items + 2))


def corrected_samplers(known: Known) -> dict[str, Sampler]:
    """The proposals with a log Q, refreshed."""
    catalogue, size = known.catalogue, known.vectors.shape[1]
    samplers: dict[str, Sampler] = {"uniform": UniformSampler(catalogue)}
    for words in (8, 32, 128):
        samplers[f"midx K={words}"] = MultiIndexSampler(catalogue, size=size, num_codewords=words)
    samplers["exact softmax"] = ExactSoftmaxSampler(catalogue, size=size)
    for sampler in samplers.values():
        sampler.refresh(known.vectors)
    return samplers


def draw(
    sampler: Sampler, queries: Tensor, draws: int, generator: torch.Generator, catalogue: Tensor
) -> tuple[Tensor, Tensor]:
    """Places in the catalogue and log Q of ``draws`` draws a query, each [Q, draws]."""
    position = torch.full((int(catalogue.max()) + 1,), -1)
    position[catalogue] = torch.arange(len(catalogue))
    at_once = max(1, 50_000 // len(queries))
    parts = [sampler.sample(queries, min(at_once, draws - start), generator) for start in range(0, draws, at_once)]
    return position[torch.cat([part.items for part in parts], 1)], torch.cat([part.log_q for part in parts], 1)


def bias(known: Known, at: Tensor, log_q: Tensor, n: int) -> dict[str, float]:
    """Estimates of n draws each against the exact KL; means over queries, errors over draws given the queries."""
    queries = len(at)
    replicates = at.shape[1] // n
    shape = (queries * replicates, n)

    def estimates(corrected: bool) -> Tensor:
        used = slice(0, replicates * n)
        scores, logits = (values.double().gather(1, at[:, used]).view(shape) for values in (known.scores, known.logits))
        weight = log_q[:, used].reshape(shape).double() if corrected else torch.zeros(shape, dtype=torch.float64)
        return distillation_terms(scores, logits, weight).view(queries, replicates)

    exact = full_kl(known.scores.double(), known.logits.double())
    found, plain = estimates(corrected=True), estimates(corrected=False)
    error = found - exact[:, None]
    spread = found.var(1).mean() if replicates > 1 else torch.tensor(torch.nan)
    return {
        "kl": float(exact.mean()),
        "estimate": float(found.mean()),
        "abs_error": abs(float(error.mean())),
        "standard_error": float((spread / (queries * replicates)).sqrt()),
        "relative_bias": float(error.mean() / exact.mean()),
        "sd_of_one": float(spread.sqrt()),
        "without_log_q": float(plain.mean()),
        "replicates": float(queries * replicates),
    }


def bias_rows(dataset: str, known: Known, draws: int, seed: int, data_hash: str | None, part: str) -> Iterator[Row]:
    """One row for every proposal and N."""
    for name, sampler in corrected_samplers(known).items():
        generator = torch.Generator().manual_seed(seed)
        at, log_q = draw(sampler, known.queries, draws // len(known.queries), generator, known.catalogue)
        everywhere = sampler.log_q(known.queries, known.catalogue.expand(len(known.queries), -1)).double()
        limit = full_kl(known.scores.double() + everywhere, known.logits.double() + everywhere).mean()
        for n in SIZES:
            found = bias(known, at, log_q, n) | {"limit_without": float(limit)}
            yield result_row(dataset, f"{name}, N={n}", seed, found, data_hash=data_hash, protocol={"part": part})


def toy_part(options: argparse.Namespace) -> list[Row]:
    """Small catalogues with known scores and logits."""
    rows = []
    for items in (300, 5_000):
        rows += bias_rows(f"toy, M = {items:,}", toy(items, options.seed), options.draws, options.seed, None, "toy")
        print(*table(rows, ("kl", "estimate", "relative_bias")), sep="\n", flush=True)
    return rows


def open_stages(run: Path, work: Path) -> tuple[Experiment, Stages]:
    """Both stages of a finished run, in evaluation mode; a copy is opened, so that the run stays as it is.

    Raises:
        ValueError: the run is not finished: it would be trained here.
    """
    if not (run / "row.json").exists():
        raise ValueError(f"{run}: not a finished run of bench_corr; it has no row.json")
    copy = work / run.name
    shutil.copytree(run, copy)
    experiment = Experiment.open(copy, quiet=True)
    if experiment.settings.together is not None:
        retriever, ranker = train_together(experiment)
    else:
        retriever = train_retriever(experiment)
        ranker = train_ranker(experiment, retriever)
    return experiment, Stages(retriever.eval(), ranker.eval(), experiment.catalogue).eval()


@torch.no_grad()
def known_of(experiment: Experiment, stages: Stages, query: Query) -> Known:
    """Scores and logits of all items."""
    catalogue, vectors = experiment.catalogue, stages.item_vectors().float()
    queries = stages.retriever.encode_queries(query).float()  # type: ignore[operator]
    scores = queries @ vectors.T
    logits = torch.empty_like(scores)
    for start in range(0, len(query), 16):
        part = torch.zeros(len(query), dtype=torch.bool)
        part[start : start + 16] = True
        some = query.where(part)
        rows = catalogue.expand(len(some), -1)
        pieces = zip(rows.split(512, 1), scores[part].split(512, 1), strict=True)
        logits[part] = torch.cat([stages.logits(some, items, known) for items, known in pieces], 1).float()
    return Known(queries, vectors, scores, logits, catalogue)


def held_out(experiment: Experiment, query: Query) -> Tensor:
    """Whether an item of the catalogue is a validation or test item of the query's user [Q, M]."""
    events, part = experiment.dataset.events, experiment.split.part
    rows = torch.from_numpy((part == Part.VALID) | (part == Part.TEST)).nonzero()[:, 0].numpy()
    key = torch.from_numpy(events.user[rows].astype("int64") * experiment.dataset.n_items + events.item[rows])
    wanted = query.user[:, None] * experiment.dataset.n_items + experiment.catalogue
    return torch.isin(wanted, key)


def sampler_rows(
    dataset: str, experiment: Experiment, known: Known, query: Query, options: argparse.Namespace
) -> Iterator[Row]:
    """What each sampler draws: false negatives, effective sample size, distance from both softmaxes."""
    positive = held_out(experiment, query)
    seen = (query.history[:, None, :] == known.catalogue[:, None]).any(2)
    size, counts = known.vectors.shape[1], torch.from_numpy(experiment.counts)
    samplers = corrected_samplers(known)
    samplers = {"uniform": samplers.pop("uniform")} | {
        "popularity": PopularitySampler(known.catalogue, counts[known.catalogue]),
        **samplers,
        f"top-k, k={TOP}": TopKSampler(known.catalogue, size=size, k=TOP),
        f"top-k-random, k={TOP}": TopKRandomSampler(known.catalogue, size=size, k=TOP),
    }
    retriever, ranker = known.scores.double().softmax(1), known.logits.double().softmax(1)
    for name, sampler in samplers.items():
        sampler.refresh(known.vectors)
        generator = torch.Generator().manual_seed(options.seed)
        found: dict[str, float] = {}
        for n in (20, 100):
            rounds = max(1, 2_000 // n)
            items = []
            weights: dict[str, list[Tensor]] = {"retriever": [], "ranker": []}
            for _ in range(1 if name.startswith("top-k,") else rounds):
                at, log_q = draw(sampler, known.queries, n, generator, known.catalogue)
                items.append(at)
                for stage, values in (("retriever", known.scores), ("ranker", known.logits)):
                    weights[stage].append(effective_sample_size(values.gather(1, at), log_q))
            if n == 20:
                drawn = torch.cat(items, 1)
                found["false_negatives"] = float(positive.gather(1, drawn).double().mean())
                found["in_history"] = float(seen.gather(1, drawn).double().mean())
            if sampler.normalised:
                for stage, values in weights.items():
                    found[f"ess_{stage}_{n}"] = float(torch.cat(values).double().mean())
        if sampler.normalised:
            everywhere = sampler.log_q(known.queries, known.catalogue.expand(len(known.queries), -1)).double().exp()
            found["tv_retriever"] = float((everywhere - retriever).abs().sum(1).mean() / 2)
            found["tv_ranker"] = float((everywhere - ranker).abs().sum(1).mean() / 2)
        facts = {"part": "samplers"}
        yield result_row(dataset, name, options.seed, found, data_hash=experiment.dataset.hash, protocol=facts)


def agreement_rows(dataset: str, run: Path, known: Mapping[Path, Known], data_hash: str) -> list[Row]:
    """Agreement of the two stages in every finished run on these data, and their exact KL where it was opened."""
    rows = []
    for system in COMPARED:
        for path in sorted(run.parent.glob(f"{dataset}-{system}-[0-9]*")):
            if path.name.removeprefix(f"{dataset}-{system}-").isdigit() and (path / "row.json").exists():
                row = json.loads((path / "row.json").read_text(encoding="utf-8"))
                wanted = ("agreement/spearman", "ndcg@10", "retriever/ndcg@10", "ranker/ndcg@10")
                found = {name: row["metrics"][name] for name in wanted if name in row["metrics"]}
                if path in known:
                    both = known[path]
                    exact = full_kl(both.scores.double(), both.logits.double())
                    found["kl"] = float(exact.mean())
                    found["kl_median"] = float(exact.median())
                facts = {"part": "agreement", "made_at": row.get("commit")}
                rows.append(result_row(dataset, system, row["seed"], found, data_hash=data_hash, protocol=facts))
    return rows


def trained_part(options: argparse.Namespace) -> list[Row]:
    """A finished run: the estimator, the samplers; and the finished runs beside it."""
    run: Path = options.run.resolve()
    first = json.loads((run / "row.json").read_text(encoding="utf-8"))
    dataset, system, seed = first["dataset"], first["system"], first["seed"]
    rows: list[Row] = []
    opened: dict[Path, Known] = {}
    # The KL of one seed of each system is enough to see what cooperation does to it.
    others = [run.parent / f"{dataset}-{name}-{seed}" for name in COMPARED if name != system]
    with tempfile.TemporaryDirectory() as work:
        for path in (run, *(other for other in others if (other / "row.json").exists())):
            experiment, stages = open_stages(path, Path(work))
            some = experiment.validation.sample(options.queries, seed=options.seed)
            query = next(iter(some.batches(len(some)))).query
            opened[path] = known_of(experiment, stages, query)
            if path == run:
                name = f"{dataset}, {system}, seed {seed}"
                data_hash = experiment.dataset.hash
                rows += bias_rows(name, opened[run], options.draws, options.seed, data_hash, "trained")
                rows += sampler_rows(name, experiment, opened[run], query, options)
            print(path.name, round(float(full_kl(opened[path].scores, opened[path].logits).mean()), 3), flush=True)
    return rows + agreement_rows(dataset, run, opened, data_hash)


def smallest_c(rows: Sequence[Row]) -> dict[str, float]:
    """For each proposal, the c with which |mean - KL| <= c/N + 3 standard errors holds for every N."""
    found: dict[str, float] = {}
    for row in rows:
        name, n = row["system"].rsplit(", N=", 1)
        error, spread = row["metrics"]["abs_error"], row["metrics"]["standard_error"]
        # One replicate alone has no spread: no allowance for it then.
        c = int(n) * (error - (3 * spread if spread == spread else 0.0))
        found[name] = max(found.get(name, 0.0), c)
    return found


def page(rows: Sequence[Row]) -> list[str]:
    """The lines of estimator.md."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row["protocol"]["part"], []).append(row)
    columns = ("kl", "estimate", "abs_error", "standard_error", "relative_bias", "sd_of_one", "without_log_q")
    columns += ("limit_without",)
    lines: list[str] = []
    for part, title in (("toy", "A small catalogue, everything known"), ("trained", "On a trained model")):
        if part in parts:
            lines += [f"## {title}: L_KD against the exact KL", "", *table(parts[part], columns)]
            for dataset in dict.fromkeys(row["dataset"] for row in parts[part]):
                found = smallest_c([row for row in parts[part] if row["dataset"] == dataset])
                shown = ", ".join(f"{name} {c:.1f}" for name, c in found.items())
                lines += ["", f"{dataset}: |mean - KL| <= c/N + 3 standard errors for all N with c = {shown}."]
            lines += [""]
    if "toy" in parts or "trained" in parts:
        lines += [
            "abs_error: |mean of the estimates - KL|; relative_bias: its signed value over the KL; sd_of_one: of one",
            "estimate given the query, what a training step sees; without_log_q: the mean where log Q is left out, and",
            "limit_without what that converges to, KL(softmax(r + log Q) || softmax(s + log Q)). At least 1,500",
            "replicates a row, more for small N.",
            "",
        ]
    if "samplers" in parts:
        columns = ("false_negatives", "in_history", "ess_retriever_20", "ess_ranker_20", "ess_retriever_100")
        columns += ("ess_ranker_100", "tv_retriever", "tv_ranker")
        lines += ["## What each sampler draws, same model and queries", "", *table(parts["samplers"], columns), ""]
        lines += [
            "false_negatives: share of draws that are the user's validation or test items; in_history: that are in",
            "the query's own history. ess: effective sample size of the weights e^s / Q and e^r / Q, of 20 and of",
            "100 draws. tv: total variation distance of Q from the retriever's and from the ranker's softmax. top-k",
            "declares no Q.",
            "",
        ]
    if "agreement" in parts:
        columns = ("agreement/spearman", "kl", "kl_median", "retriever/ndcg@10", "ranker/ndcg@10")
        lines += ["## The two stages, trained apart and together", "", *table(parts["agreement"], columns), ""]
        lines += [
            "agreement/spearman: rank correlation of both orders on each system's own 100 candidates, test queries,",
            "all finished seeds. kl: exact KL(ranker || retriever) over the catalogue, mean over the sampled",
            "validation queries, one seed. Systems without -plain read evidence and the retriever's score, and so",
            "agree by that.",
            "",
        ]
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--run", type=Path, default=RUN, help="a finished run of bench_corr")
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--draws", type=int, default=REPLICATES * max(SIZES), help="in all, for each proposal")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to write (docs/results)")
    options = parser.parse_args(arguments)
    refuse_quick_look(parser, options, "draws", "queries", "run")
    torch.set_num_threads(1)
    rows: list[Row] = []
    for part in options.parts:
        rows += {"toy": toy_part, "trained": trained_part}[part](options)
    rows = with_published("estimator", rows, options.folder, within="part")
    protocol = {
        "threads": 1,
        "draws": options.draws,
        "queries": options.queries,
        "run": options.run.name,
        "toy": "d = 32, v ~ N(0, 1), q of norm 1.5, s = <q, v>, r = s / 2 + .8 N(0, 1); one query",
    }
    shown = page(rows)
    print("\n".join(shown))
    write_results("estimator", rows, protocol, shown, options.folder)


if __name__ == "__main__":
    main()
