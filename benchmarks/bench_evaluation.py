"""How long does judging take? Top-500 of the full catalogue and every metric, for queries like ml-1m's.

Random vectors of ml-1m's size: 6,040 queries, 3,416 items, d = 64, up to 200 seen items excluded, one target
each. The ranker is an inner product, so that its line shows what judging costs, not what a model costs.

    python benchmarks/bench_evaluation.py              # the published figures: 2 threads, 3 seeds
    python benchmarks/bench_evaluation.py --threads 1 --seeds 0 --folder runs    # a quick look

Prints a table and writes docs/results/evaluation.json and evaluation.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from results import Row, refuse_quick_look, result_row, with_published, write_results
from torch import Tensor

from corral.data.batches import Query
from corral.data.targets import TargetBatch
from corral.evaluation.evaluate import evaluate
from corral.evaluation.mixture import Mixture, tune_mixture
from corral.evaluation.result import Evaluation
from corral.evaluation.significance import compare
from corral.retrieval.channels import RetrieverChannel
from corral.retrieval.index import ExactIndex

QUERIES, ITEMS, DIMENSION, HISTORY = 6_040, 3_416, 64, 200
TARGET_SECONDS = 3.0
SYSTEMS = {
    "retriever": "stage 1 alone: top-500 and all its metrics",
    "funnel": "both stages, mixture, oracle bounds, list statistics, 100 candidates",
    "tuning": "21 mixture weights on the same queries",
    "bootstrap": "10,000 paired resamples of two runs",
}


class RandomTargets:
    """Random queries, made before the clock starts."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.vectors = torch.randn(QUERIES, DIMENSION, generator=generator)
        self.item_vectors = torch.randn(ITEMS + 2, DIMENSION, generator=generator)
        self.target = torch.randint(2, ITEMS + 2, (QUERIES,), generator=generator)
        history = torch.randint(2, ITEMS + 2, (QUERIES, HISTORY), generator=generator)
        length = torch.randint(20, HISTORY + 1, (QUERIES, 1), generator=generator)
        unseen = (torch.arange(HISTORY) < HISTORY - length) | (history == self.target[:, None])
        self.history = history.masked_fill(unseen, 0)
        self.vectors += 0.2 * self.item_vectors[self.target]

    def __len__(self) -> int:
        return QUERIES

    def batches(self, size: int) -> Iterator[TargetBatch]:
        """As ``Targets.batches``."""
        for start in range(0, QUERIES, size):
            yield self.batch(np.arange(start, min(start + size, QUERIES)))

    def batch(self, index: np.ndarray) -> TargetBatch:
        """As ``Targets.batch``."""
        row = torch.from_numpy(index)
        query = Query(row + 2, row, self.history[row], row)
        return TargetBatch(query, self.history[row], self.target[row], torch.arange(len(row)), index, self.history[row])

    def encode_queries(self, query: Query) -> Tensor:
        """As a retriever."""
        return self.vectors[query.event]

    def rank(self, query: Query, items: Tensor) -> Tensor:
        """As a ranker: an inner product with a better vector."""
        better = self.vectors[query.event] + 0.2 * self.item_vectors[self.target[query.event]]
        return torch.einsum("bd,bnd->bn", better, self.item_vectors[items])


def measure(seed: int, repeats: int) -> dict[str, dict[str, float]]:
    """Wall and CPU seconds of each system, each the least of ``repeats``."""
    world = RandomTargets(seed)
    channel = RetrieverChannel(world, ExactIndex(world.item_vectors[2:], torch.arange(2, ITEMS + 2)))
    counts = np.random.default_rng(seed).integers(0, 1000, ITEMS + 2)

    def funnel() -> Evaluation:
        return evaluate(
            world,  # type: ignore[arg-type]
            channel,
            ranker=world.rank,
            mixture=Mixture(0.5),
            item_counts=counts,
        )

    judged = funnel()
    work: dict[str, Callable[[], object]] = {
        "retriever": lambda: evaluate(world, channel),  # type: ignore[arg-type]
        "funnel": funnel,
        "tuning": lambda: tune_mixture(world, channel, world.rank),  # type: ignore[arg-type]
        "bootstrap": lambda: compare([judged], [judged]),
    }
    metrics = {}
    for system, run in work.items():
        wall, cpu = [], []
        for _ in range(repeats):
            start, start_cpu = time.perf_counter(), time.process_time()
            run()
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - start_cpu)
        metrics[system] = {
            "seconds": min(wall),
            "cpu_seconds": min(cpu),
            "queries_per_second": QUERIES / min(wall),
        }
    return metrics


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write (docs/results)")
    arguments = parser.parse_args()
    refuse_quick_look(parser, arguments, "threads", "repeats")
    torch.set_num_threads(arguments.threads)
    rows: list[Row] = []
    for seed in arguments.seeds:
        for system, metrics in measure(seed, arguments.repeats).items():
            rows.append(result_row("random-ml-1m-size", system, seed, metrics))
            spent = f"{metrics['seconds']:6.2f} s wall {metrics['cpu_seconds']:6.2f} s CPU"
            print(f"seed {seed}  {system:10} {spent}  {SYSTEMS[system]}", flush=True)
    rows = with_published("evaluation", rows, arguments.folder)
    protocol = {
        "queries": QUERIES,
        "items": ITEMS,
        "dimension": DIMENSION,
        "history": f"20-{HISTORY}, excluded from the lists",
        "threads": arguments.threads,
        "time": f"best of {arguments.repeats}; CPU of all threads",
        "goal": f"top-500 and metrics within {TARGET_SECONDS:.0f} s on 2 cores",
    }
    lines = ["; ".join(f"{key}: {value}" for key, value in protocol.items()) + ".", ""]
    lines += [
        "| system | what | seconds (worst seed) | CPU seconds | queries a second |",
        "|---|---|---|---|---|",
    ]
    for system, what in SYSTEMS.items():
        own = [row["metrics"] for row in rows if row["system"] == system]
        worst, cpu = (max(each[name] for each in own) for name in ("seconds", "cpu_seconds"))
        lines.append(f"| {system} | {what} | {worst:.2f} | {cpu:.2f} | {QUERIES / worst:,.0f} |")
    write_results("evaluation", rows, protocol, lines, arguments.folder)
    worst = max(row["metrics"]["seconds"] for row in rows if row["system"] == "retriever")
    verdict = "within" if worst <= TARGET_SECONDS else "ABOVE"
    print(f"top-500 and metrics: {worst:.2f} s, {verdict} the goal of {TARGET_SECONDS:.0f} s")


if __name__ == "__main__":
    main()
