"""Section ``kills`` of bench_scale.py: writers of data sets and bundles killed (SIGKILL) at random moments.

Two versions of what is written replace each other. After each kill, what stands there must be one of the two, whole:
every checksum is compared, and a bundle must answer as its version did. Children are forks of a process that has
computed nothing: no time goes into imports, and no thread is lost in a fork.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# Imported before the forks; nothing of them runs here.
import numpy as np
import polars as pl
import torch

from corral.cli.experiment import Experiment
from corral.cli.run import open_recommender, train_run
from corral.data.dataset import Dataset
from corral.data.dataset_prepare import prepare_dataset
from corral.data.parquet_interactions import ParquetInteractions, parquet_files
from corral.data.synthetic import markov_world
from corral.serving.bundle import save_bundle
from corral.serving.manifest import read_manifest
from corral.settings import load_settings

KINDS = ("preparation", "publication")
KILLS, EVENTS = 50, 400_000
VERSIONS = ("a", "b")
OUTCOMES = ("killed", "old_stays", "new_in_place", "lost", "corrupt", "left_over")
RULES = (
    "Each writer replaces version a by b or b by a and is killed at a moment drawn uniformly from the time that it "
    "takes; killed: how many ended so (others were done before). old_stays, new_in_place: what then stood there, "
    "whole, every checksum compared (bundles also by their answers). left_over: hidden directories after one more "
    "writer, which sweeps."
)
RECIPE = """
threads: 1
data: {path: DATA}
split: {valid_fraction: 0.15, test_fraction: 0.15, repeats: true}
retriever: {kind: sasrec, size: 8, blocks: 1, max_length: 8}
retriever_training: {epochs: 1, batch_size: 64}
ranker: {kind: fm, field_size: 4, history_length: 6}
ranker_training: {epochs: 1, batch_size: 256, num_negatives: 4}
evaluation: {num_candidates: 12, serve_by: fused}
"""


class Preparation:
    """A data set of many Parquet files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.target = folder, folder / "data"

    def set_up(self, events: int) -> None:
        """Two folders of files, and what a whole data set of each is."""
        facts = {}
        for seed, version in enumerate(VERSIONS):
            generator = np.random.default_rng(seed)
            columns = {
                name: generator.integers(0, size, events) for name, size in (("user_id", 5000), ("item_id", 900))
            }
            frame = pl.DataFrame({**columns, "timestamp": generator.integers(0, 10**6, events)})
            (self.folder / version).mkdir()
            for place in range(4):
                frame[place * events // 4 : (place + 1) * events // 4].write_parquet(
                    self.folder / version / f"{place}.parquet"
                )
            self.write(version)
            facts[Dataset.open(self.target).hash] = version
        (self.folder / "facts.json").write_text(json.dumps(facts))

    def write(self, version: str) -> None:
        """Puts a version into its place."""
        files = parquet_files(self.folder / version)
        assert files is not None
        source = ParquetInteractions.open(files, source=version)
        prepare_dataset(self.target, source, name="d", overwrite=True, events_in_memory=50_000)

    def state(self) -> str:
        """The version that stands there; raises where it is not whole."""
        found = Dataset.open(self.target)
        found.verify()
        return json.loads((self.folder / "facts.json").read_text())[found.hash]


class Publication:
    """A bundle of a trained run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.target = folder, folder / "bundle"

    def set_up(self, events: int) -> None:
        """Two trained runs, and what each answers."""
        torch.set_num_threads(1)
        data, facts = self.folder / "markov", {}
        Dataset.write(data, markov_world(60, 16, length=14).interactions)
        for seed, version in enumerate(VERSIONS):
            settings = load_settings(RECIPE.replace("DATA", str(data)), "kills", [f"seed={seed}"])
            train_run(Experiment.start(settings, self.folder / version, quiet=True))
            self.write(version)
            facts[version] = self._answer()
        (self.folder / "facts.json").write_text(json.dumps(facts))

    def write(self, version: str) -> None:
        """Puts a version into its place."""
        recommender = open_recommender(self.folder / version)
        save_bundle(self.target, recommender, data_name="markov", data_hash=version)

    def state(self) -> str:
        """The version that stands there; raises where it is not whole."""
        version = read_manifest(self.target).data["hash"]
        if self._answer() != json.loads((self.folder / "facts.json").read_text())[version]:
            raise ValueError("answers otherwise")
        return version

    def _answer(self) -> list[list[int]]:
        return open_recommender(self.target).recommend(list(range(20)), 5).item_ids


def in_a_child(work: Callable[[], str]) -> str:
    """What ``work`` returns, in a fork; raises what it said where it failed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = "=" + work()
        except BaseException as error:
            answer = f"!{type(error).__name__}: {error}"
        os.write(writing, answer.encode()[:60_000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    if not answer.startswith("="):
        raise RuntimeError(answer)
    return answer[1:]


def killed_write(work: Callable[[], None], seconds: float) -> bool:
    """Runs ``work`` in a fork and kills it after some seconds; whether it was still at it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(error, flush=True)
            os._exit(1)
        os._exit(0)
    end = os.pidfd_open(child)
    select.select([end], [], [], seconds)
    os.kill(child, signal.SIGKILL)
    os.close(end)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("a writer failed by itself")
    return os.WIFSIGNALED(status)


def kill_loop(kind: str, folder: Path, kills: int, seed: int = 0, events: int = EVENTS) -> dict[str, float]:
    """Kills so many writers; what was found after each."""
    writer = {"preparation": Preparation, "publication": Publication}[kind](folder)
    folder.mkdir(parents=True)
    in_a_child(lambda: writer.set_up(events) or "")
    moments, found = random.Random(seed), dict.fromkeys(OUTCOMES, 0)
    standing, taken = VERSIONS[-1], 0.0
    while found["killed"] < kills:
        wanted = VERSIONS[1 - VERSIONS.index(standing)]
        if not taken:
            start = time.perf_counter()
            in_a_child(lambda wanted=wanted: writer.write(wanted) or "")
            taken, standing = time.perf_counter() - start, wanted
            continue
        killed = killed_write(lambda wanted=wanted: writer.write(wanted), moments.random() * taken)
        found["killed"] += killed
        try:
            after = in_a_child(writer.state)
        except RuntimeError as error:
            print(kind, error, flush=True)
            found["corrupt" if writer.target.exists() else "lost"] += 1
            in_a_child(lambda wanted=wanted: writer.write(wanted) or "")
            standing = wanted
            continue
        if killed:
            found["old_stays" if after == standing else "new_in_place"] += 1
        elif after != wanted:
            found["lost"] += 1
        standing = after
    in_a_child(lambda: writer.write(VERSIONS[0]) or "")
    found["left_over"] = sum(path.name.startswith(".") for path in folder.iterdir())
    shutil.rmtree(folder)
    return {**found, "write_seconds": taken}


def cells(
    kills: int, folder: Path, done: set[tuple[str, str]], events: int = EVENTS
) -> Iterator[tuple[str, str, dict]]:
    """(data, what is killed, outcomes) of what is not done yet."""
    for kind in KINDS:
        if (f"kills, {kills}", kind) not in done:
            yield f"kills, {kills}", kind, kill_loop(kind, folder / f"kills-{kind}", kills, events=events)
