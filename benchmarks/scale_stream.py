"""Section ``stream`` of bench_scale.py: more events than memory should need, from Parquet files to trained steps.

Every step runs in a process of its own, which measures its CPU and wall time and its peak resident memory (VmHWM). That
counts the pages of the memory-mapped columns too, which the system takes back when it needs them:
``peak_anonymous_mb`` is what the process cannot give back.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

STEPS = ("generate", "prepare", "prepare-in-memory", "split", "reads", "pass", "train")
PER_USER, ITEMS, PER_FILE, SECONDS = 50, 1_000_000, 5_000_000, 100_000_000
LENGTH, BATCH, TRAIN_BATCH, NEGATIVES, SIZE, TRAIN_STEPS = 50, 32, 16, 16, 32, 20_000
READ_BATCHES = 300
# Where all events are in memory at once: no more than this.
IN_MEMORY = 30_000_000
RULES = (
    f"Synthetic events: {PER_USER} a user on average, {ITEMS:,} items of power-law popularity, {PER_FILE:,} events a "
    f"file, users in no order. pass: one epoch of windows of up to {LENGTH} events, batches of {BATCH}. train: SASRec "
    f"(one block, D = {SIZE}, sparse table), sampled softmax with {NEGATIVES} uniform negatives, {TRAIN_STEPS:,} steps "
    f"on batches of {TRAIN_BATCH} windows. reads: {READ_BATCHES} batches shuffled and in the order of the file, "
    "with the columns in the system's cache (warm) and with the cache emptied of them (cold). peak_rss_mb counts the "
    "pages of the mapped columns, which the system takes back when it needs them; peak_anonymous_mb does not. One "
    "thread; the machine was shared: CPU times compare, wall times do not."
)


def generate(events: int, folder: Path) -> dict[str, float]:
    """Parquet files of synthetic events, one at a time in memory."""
    import numpy as np
    import polars as pl

    folder.mkdir(parents=True)
    popularity = np.cumsum(np.arange(1, ITEMS + 1) ** -0.8)
    popularity /= popularity[-1]
    for place, start in enumerate(range(0, events, PER_FILE)):
        size, random = min(PER_FILE, events - start), np.random.default_rng((0, place))
        columns = {
            "user_id": random.integers(0, max(events // PER_USER, 1), size),
            "item_id": np.searchsorted(popularity, random.random(size)),
            "timestamp": 1_600_000_000 + random.integers(0, SECONDS, size),
        }
        pl.DataFrame(columns).write_parquet(folder / f"{place:04d}.parquet", compression="zstd")
    return {"parquet_mb": sum(file.stat().st_size for file in folder.iterdir()) / 1e6}


def prepare(folder: Path, dataset: Path) -> dict[str, float]:
    """``corral data add`` of the folder."""
    from corral.data.dataset_prepare import prepare_dataset
    from corral.data.parquet_interactions import ParquetInteractions, parquet_files

    files = parquet_files(folder)
    assert files is not None
    made = prepare_dataset(dataset, ParquetInteractions.open(files, source="synthetic"), overwrite=True)
    return {"dataset_mb": sum(entry.bytes for entry in made.header.files.values()) / 1e6}


def prepare_in_memory(folder: Path, dataset: Path) -> dict[str, float]:
    """The same from one table; the bytes must be the same."""
    import polars as pl

    from corral.data.dataset import Dataset
    from corral.data.interactions import read_table

    frame = pl.read_parquet(sorted(folder.iterdir()))
    made = Dataset.write(dataset.with_name(dataset.name + "-in-memory"), read_table(frame), overwrite=True)
    if dataset.exists() and made.hash != Dataset.open(dataset).hash:
        raise SystemExit("the two ways do not make the same data set")
    return {}


def _loader(dataset: Path, batch: int = BATCH) -> Any:
    from corral.data.dataset import Dataset
    from corral.data.sequence_loader import SequenceLoader
    from corral.data.split import time_cut

    data = Dataset.open(dataset)
    return data, SequenceLoader(data, time_cut(data), length=LENGTH, batch_size=batch, seed=0)


def split(dataset: Path) -> dict[str, float]:
    """The split, the counts and the windows of an epoch: what stands in memory before the first batch."""
    from corral.data.dataset import Dataset
    from corral.data.split import time_cut

    data = Dataset.open(dataset)
    cut = time_cut(data)
    items = int((cut.train_counts(data) > 0).sum())
    next(iter(_loader(dataset)[1].epoch(0)))
    return {"items": items}


def reads(dataset: Path) -> dict[str, float]:
    """What random reads cost."""
    import numpy as np

    _, loader = _loader(dataset)
    random = np.random.default_rng((0, 0))
    user, first, stop = loader._windows(random)
    shuffled, found = random.permutation(len(user)), {}
    batches = min(READ_BATCHES, len(user) // BATCH)
    for name, order in (("in_order", np.roll(np.arange(len(user)), -(len(user) // 3))), ("shuffled", shuffled)):
        for cache in ("cold", "warm"):
            if cache == "cold":
                _empty_cache(dataset)
            start, read = time.perf_counter(), _bytes_read()
            for place in range(batches):
                chosen = order[place * BATCH : (place + 1) * BATCH]
                loader._batch(user[chosen], first[chosen], stop[chosen])
            found[f"{name}_{cache}_ms"] = 1e3 * (time.perf_counter() - start) / batches
            found[f"{name}_{cache}_mb_read"] = (_bytes_read() - read) / 1e6
    return found


def _empty_cache(dataset: Path) -> None:
    """Takes the pages of the columns out of the system's cache, those alone."""
    for file in (dataset / "events").iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _bytes_read() -> int:
    """From the disk, by this process."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])


def one_pass(dataset: Path) -> dict[str, float]:
    """Every train event once."""
    _, loader = _loader(dataset)
    windows = events = 0
    start = time.process_time()
    for batch in loader.epoch(0):
        windows += len(batch)
        events += int((batch.event >= 0).sum())
    return {"windows": windows, "events": events, "events_per_cpu_second": events / (time.process_time() - start)}


def train(dataset: Path, steps: int) -> dict[str, float]:
    """Steps of a sampled softmax, from as many epochs as they take."""
    import torch

    from corral.retrieval.sasrec import SASRec
    from corral.sampling.uniform import UniformSampler
    from corral.training.optimizers import RowWiseAdam
    from corral.training.retrieval_objectives import SampledSoftmaxObjective

    torch.set_num_threads(1)
    torch.manual_seed(0)
    data, loader = _loader(dataset, TRAIN_BATCH)
    model = SASRec(data.n_items, size=SIZE, max_length=LENGTH, blocks=1, sparse=True)
    catalogue = torch.arange(2, data.n_items)
    objective = SampledSoftmaxObjective(model, catalogue, UniformSampler(catalogue), num_negatives=NEGATIVES)
    optimizer = RowWiseAdam(objective)
    losses: list[float] = []
    done, epoch, began = 0, 0, time.process_time()
    while done < steps:
        for batch in loader.epoch(epoch):
            optimizer.zero_grad()
            loss = objective(batch)["total"]
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            done += 1
            if done == steps:
                break
        epoch += 1
    spent = time.process_time() - began
    return {
        "steps": done,
        "step_ms": 1e3 * spent / done,
        "first_loss": statistics.mean(losses[:100]),
        "last_loss": statistics.mean(losses[-100:]),
    }


def measured(work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Times of ``work`` and the process's memory, looked at ten times a second."""
    anonymous, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            anonymous[0] = max(anonymous[0], _status("RssAnon"))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    found = work()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    over.set()
    watcher.join()
    return {
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "wall_seconds": wall,
        "peak_rss_mb": _status("VmHWM"),
        "peak_anonymous_mb": max(anonymous[0], _status("RssAnon")),
        **found,
    }


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def run(step: str, events: int, folder: Path, steps: int) -> dict[str, float]:
    """One step, in this process."""
    parquet, dataset = folder / f"events-{events}", folder / f"dataset-{events}"
    work: dict[str, Callable[[], dict[str, float]]] = {
        "generate": lambda: generate(events, parquet),
        "prepare": lambda: prepare(parquet, dataset),
        "prepare-in-memory": lambda: prepare_in_memory(parquet, dataset),
        "split": lambda: split(dataset),
        "reads": lambda: reads(dataset),
        "pass": lambda: one_pass(dataset),
        "train": lambda: train(dataset, steps),
    }
    return measured(work[step])


def cells(sizes: list[int], folder: Path, steps: int, done: set[tuple[str, str]]) -> Iterator[tuple[str, str, dict]]:
    """(data, step, metrics) of what is not done yet; each step in a process of its own."""
    for events in sizes:
        name = f"stream, {events / 1e6:g}M events"
        for step in STEPS:
            if (name, step) in done or (step == "prepare-in-memory" and events > IN_MEMORY):
                continue
            if step == "generate" and (folder / f"events-{events}").exists():
                continue
            words = [sys.executable, __file__, step, str(events), str(folder), str(steps)]
            answer = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            yield name, step, json.loads(answer.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))))
