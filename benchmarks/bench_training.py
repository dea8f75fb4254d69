"""What does a training step cost, and does it grow with the tables?

Part 1, ``tables``: matrix factorization with a sampled softmax (batch 1,024, 100 negatives, d = 64), sparse
row-wise updates against dense ones, for 10^4 to 10^6 users and as many items. Floor: the bytes of the rows in use.
Part 2, ``ml-1m`` (needs CORRAL_DATA): a training epoch of the recipe ml-1m-sasrec, timed over some steps, against
judging the whole funnel at 100 candidates (that retriever, an untrained DIN) for all users.

    python benchmarks/bench_training.py

Prints tables and writes docs/results/training.json and training.md. One thread; CPU time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from results import Row, refuse_quick_look, result_row, table, with_published, write_results

from corral.cli.experiment import Experiment
from corral.cli.ranker_stage import new_ranker
from corral.cli.recipes import read_recipe
from corral.cli.retriever_stage import new_retriever, served_channel
from corral.data.batches import Batch, Query
from corral.data.sequence_loader import SequenceLoader
from corral.data.split import Part
from corral.evaluation.evaluate import evaluate
from corral.retrieval.matrix_factorization import MatrixFactorization
from corral.sampling.uniform import UniformSampler
from corral.training.optimizers import RowWiseAdam
from corral.training.retrieval_objectives import FullSoftmaxObjective, SampledSoftmaxObjective

SIZES = (10_000, 100_000, 1_000_000)
BATCH, NEGATIVES, SIZE = 1_024, 100, 64


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def table_step(rows: int, sparse: bool, seed: int, steps: int) -> dict[str, float]:
    """A step on tables of ``rows`` users and items."""
    torch.manual_seed(seed)
    model = MatrixFactorization(rows, rows, size=SIZE, sparse=sparse)
    catalogue = torch.arange(2, rows)
    objective = SampledSoftmaxObjective(model, catalogue, UniformSampler(catalogue), num_negatives=NEGATIVES)
    optimizer = RowWiseAdam(objective)
    generator = torch.Generator().manual_seed(seed)

    def step() -> None:
        user, item = torch.randint(2, rows, (2, BATCH), generator=generator)
        query = Query(user, user, torch.zeros(BATCH, 0, dtype=torch.int64), user)
        optimizer.zero_grad()
        objective(Batch(query, item, torch.ones(BATCH)))["total"].backward()
        optimizer.step()

    step()
    milliseconds = 1e3 * statistics.median(cpu_seconds(step) for _ in range(steps))
    # Rows are read, their gradients written, and row, mean and variance read and written by Adam.
    floor = (BATCH * (NEGATIVES + 2)) * SIZE * 4 * 8 / 1e6
    return {"milliseconds": milliseconds, "floor_megabytes": floor, "table_megabytes": 2 * rows * SIZE * 4 / 1e6}


def epoch_and_funnel(seed: int, steps: int) -> tuple[dict[str, float], str]:
    """An epoch of ml-1m-sasrec by ``steps`` of its steps, and the funnel over all users; and the data's hash."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = (f"seed={seed}", "ranker={kind: din, attention_size: 16}", "threads=1")
        experiment = Experiment.start(read_recipe("ml-1m-sasrec", overrides), Path(folder), quiet=True)
        chosen = experiment.settings.retriever_training
        retriever, ranker = new_retriever(experiment), new_ranker(experiment)
        objective = FullSoftmaxObjective(retriever, experiment.catalogue)
        optimizer = RowWiseAdam(objective)
        loader = SequenceLoader(
            experiment.dataset, experiment.split, length=200, batch_size=chosen.batch_size, seed=seed
        )
        batches = [batch for batch, _ in zip(loader.epoch(0), range(steps + 1), strict=False)]

        def step(batch: object) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=chosen.low_precision):
                loss = objective(batch)["total"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        step(batches[0])
        spent = cpu_seconds(lambda: [step(batch) for batch in batches[1:]])
        positions = sum(int(batch.target_mask.sum()) for batch in batches[1:])
        total = int(experiment.split.facts["train_events"])  # type: ignore[call-overload]
        targets = experiment.targets(Part.TEST)
        channel = served_channel(experiment, retriever)
        alone = cpu_seconds(lambda: evaluate(targets, channel, cutoffs=(10,)))
        funnel = cpu_seconds(lambda: evaluate(targets, channel, ranker=ranker, item_counts=experiment.counts))
    epoch = spent / positions * total
    found = {
        "epoch_seconds": epoch,
        "positions_per_second": positions / spent,
        "retriever_evaluation_seconds": alone,
        "funnel_evaluation_seconds": funnel,
        "funnel_share_of_epoch": funnel / epoch,
    }
    return found, experiment.dataset.hash


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--datasets", nargs="+", choices=("tables", "ml-1m"), default=["tables", "ml-1m"])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="rows of each table, part tables")
    parser.add_argument("--folder", type=Path, help="where to write (docs/results)")
    options = parser.parse_args()
    refuse_quick_look(parser, options, "steps")
    torch.set_num_threads(1)
    rows: list[Row] = []
    for seed in options.seeds:
        for size in options.sizes if "tables" in options.datasets else ():
            for system in ("sparse", "dense"):
                found = table_step(size, system == "sparse", seed, options.steps)
                rows.append(result_row(f"tables of {size:,} rows", system, seed, found))
                print(rows[-1], flush=True)
        if "ml-1m" in options.datasets and "CORRAL_DATA" in os.environ:
            found, data_hash = epoch_and_funnel(seed, options.steps)
            rows.append(result_row("ml-1m", "sasrec + din", seed, found, data_hash=data_hash))
            print(rows[-1], flush=True)
    rows = with_published("training", rows, options.folder)
    steps = [row for row in rows if row["system"] in ("sparse", "dense")]
    funnel = [row for row in rows if row["dataset"] == "ml-1m"]
    lines = table(steps, ("milliseconds", "floor_megabytes", "table_megabytes"), digits=1)
    if funnel:
        lines += ["", *table(funnel, list(funnel[0]["metrics"]), digits=2)]
        lines += ["", "Goal: the funnel at 100 candidates for all users within a quarter of an epoch."]
    protocol = {"threads": 1, "time": "CPU", "batch": BATCH, "negatives": NEGATIVES, "d": SIZE}
    write_results("training", rows, protocol, lines, options.folder)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
