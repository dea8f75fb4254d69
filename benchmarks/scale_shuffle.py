"""Section ``shuffle`` of bench_scale.py: does it cost quality to stream a data set from files in somebody's order?

MovieLens-100K as Parquet files sorted by user, sorted by time, and as published, each prepared with bounded memory;
then SASRec trained on the windows as they are streamed, by one plain shuffle of them all, and in the order of the data
set; and matrix factorization on single clicks. Needs CORRAL_DATA. Each runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

# Imported by bench_scale.py before it forks; nothing of them runs here.
import numpy as np
import polars as pl

from corral.cli import fit_objective, retriever_stage
from corral.cli.experiment import Experiment
from corral.cli.run import train_run
from corral.data.batches import Batch, SequenceBatch
from corral.data.dataset import Dataset
from corral.data.dataset_prepare import prepare_dataset
from corral.data.event_loader import EventLoader
from corral.data.parquet_interactions import ParquetInteractions, parquet_files
from corral.data.sequence_loader import SequenceLoader
from corral.evaluation.result import Evaluation
from corral.evaluation.significance import paired_difference, user_clusters
from corral.settings import load_settings

DATA, RULE = "ml-100k", "leave-last-two-out"
SEEDS, OTHER_SEEDS = (0, 1, 2), (100, 101, 102)
FILES, EVENTS_IN_MEMORY = 4, 20_000
PLAIN = "one plain shuffle"
KINDS = {f"shuffle, {DATA}": "windows", f"shuffle, {DATA} clicks": "clicks"}
RULES = (
    f"{DATA}, {RULE}, as {FILES} Parquet files sorted by user, by time, and in the published order (events of one user "
    f"and second keep theirs), each prepared with {EVENTS_IN_MEMORY:,} events in memory. same_data: whether the three "
    "data sets are the same, byte for byte. SASRec (D = 32, one block, windows of 50, full softmax, early stopping on "
    "validation) trained on them. streamed: the windows as `corral train` shuffles them, each read from the memory "
    f"map, those of 32 batches sorted by length. {PLAIN}: all windows permuted, nothing sorted. not shuffled: in the "
    f"order of the data set, by user. Mean of {len(SEEDS)} seeds; difference to {PLAIN} (of other seeds: how far "
    "chance moves it) with its paired 95% interval, each query's mean over the seeds, users resampled. clicks: matrix "
    f"factorization (D = 32, full softmax) on single clicks, which are streamed by {PLAIN} as it is."
)
RECIPE = """
threads: 1
data: {path: DATASET}
split: {rule: leave-last-two-out}
"""
RECIPES = {
    "windows": RECIPE
    + """
retriever: {kind: sasrec, size: 32, blocks: 1, heads: 1, dropout: 0.2, max_length: 50}
retriever_training: {loss: full-softmax, epochs: 20, batch_size: 32, learning_rate: 0.003, patience: 5}
""",
    "clicks": RECIPE
    + """
retriever: {kind: mf, size: 32}
retriever_training: {loss: full-softmax, epochs: 20, batch_size: 512, learning_rate: 0.003, patience: 5}
""",
}


def datasets(work: Path) -> list[Path]:
    """The data set of each order of the files."""
    published = pl.read_csv(
        Path(os.environ["CORRAL_DATA"]) / DATA / "u.data.gz",
        separator="\t",
        has_header=False,
        new_columns=["user_id", "item_id", "rating", "timestamp"],
    ).drop("rating")
    orders = {
        "by-user": published.sort("user_id", "timestamp", maintain_order=True),
        "by-time": published.sort("timestamp", maintain_order=True),
        "published": published,
    }
    made = []
    for name, frame in orders.items():
        (work / name).mkdir(parents=True)
        size = -(-len(frame) // FILES)
        for place in range(FILES):
            frame[place * size : (place + 1) * size].write_parquet(work / name / f"{place}.parquet")
        files = parquet_files(work / name)
        assert files is not None
        made.append(work / f"dataset-{name}")
        source = ParquetInteractions.open(files, source=DATA)
        prepare_dataset(made[-1], source, name=DATA, events_in_memory=EVENTS_IN_MEMORY)
    return made


def judged(kind: str, dataset: Path, run: Path, loader: type, seeds: tuple[int, ...]) -> Evaluation:
    """The evaluation of trainings whose batches come from a loader, every query's mean over the seeds."""
    if kind == "windows":
        retriever_stage.SequenceLoader = loader  # type: ignore[misc]
    else:
        fit_objective.EventLoader = loader  # type: ignore[misc]
    found = []
    for seed in seeds:
        settings = load_settings(RECIPES[kind].replace("DATASET", str(dataset)), "shuffle", [f"seed={seed}"])
        found.append(train_run(Experiment.start(settings, run / str(seed), quiet=True)))
    names = found[0].per_query
    return replace(
        found[0],
        metrics={name: float(np.mean([one.metrics[name] for one in found])) for name in ("ndcg@10", "recall@10")},
        per_query={name: np.mean([one.per_query[name] for one in found], axis=0) for name in names},
    )


class WindowsInOrder(SequenceLoader):
    """As they come."""

    def order(self, windows: int, generator: np.random.Generator) -> np.ndarray:
        return np.arange(windows)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[SequenceBatch]:
        generator = np.random.default_rng((self._seed, epoch))
        user, first, stop = self._windows(generator)
        order = self.order(len(user), generator)
        for at in range(first_batch * self._batch_size, len(order), self._batch_size):
            chosen = order[at : at + self._batch_size]
            yield self._batch(user[chosen], first[chosen], stop[chosen])


class WindowsShuffled(WindowsInOrder):
    """One permutation of them all."""

    def order(self, windows: int, generator: np.random.Generator) -> np.ndarray:
        return generator.permutation(windows)


class ClicksInOrder(EventLoader):
    """As they come."""

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        every = np.arange(len(self._examples))
        for at in range(first_batch * self._batch_size, len(every), self._batch_size):
            yield self._examples.batch(every[at : at + self._batch_size], self._history_length)


def measure(kind: str, work: Path) -> dict[str, dict[str, float]]:
    """Metrics of each system, in this process."""
    systems: dict[str, tuple[type, tuple[int, ...]]]
    if kind == "windows":
        systems = {
            PLAIN: (WindowsShuffled, SEEDS),
            f"{PLAIN}, other seeds": (WindowsShuffled, OTHER_SEEDS),
            "streamed": (SequenceLoader, SEEDS),
            "not shuffled": (WindowsInOrder, SEEDS),
        }
    else:
        systems = {PLAIN: (EventLoader, SEEDS), "not shuffled": (ClicksInOrder, SEEDS)}
    made = datasets(work)
    same = len({Dataset.open(path).hash for path in made}) == 1
    results = {name: judged(kind, made[0], work / "runs" / name, *how) for name, how in systems.items()}
    users, found = user_clusters(results[PLAIN].queries["user"]), {}
    for name, result in results.items():
        told = paired_difference(results[PLAIN].per_query["ndcg@10"], result.per_query["ndcg@10"], users)
        interval = {"difference": told.difference, "low": told.low, "high": told.high}
        found[name] = {**result.metrics, **({} if name == PLAIN else interval)}
        found[name] |= {"queries": told.n_queries, "same_data": float(same)}
    return found


def cells(work: Path, done: set[tuple[str, str]]) -> Iterator[tuple[str, str, dict]]:
    """(data, system, metrics) of what is not done yet."""
    for name, kind in KINDS.items():
        if (name, PLAIN) in done:
            continue
        words = [sys.executable, __file__, kind, str(work / f"shuffle-{kind}")]
        answer = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        for system, metrics in json.loads(answer.stdout.splitlines()[-1]).items():
            yield name, system, metrics


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
