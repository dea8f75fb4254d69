"""Section ``training-kills`` of bench_scale.py: ``corral train`` killed (SIGKILL) at random moments.

A training that is killed is started again by the same command, which may be killed again, until one gets through; then
its run directory is compared with that of a training that nobody touched. Two ways to be killed: an ordinary training,
the whole process; one of two workers under torch's elastic launcher, which starts both again by itself. Processes are
forks of one that has computed nothing: no time goes into imports, and no thread is lost in a fork.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

# Imported before the forks; nothing of them runs here.
import sklearn.cluster
import sklearn.metrics  # noqa: F401
import torch
import torch.distributed.checkpoint
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import corral.cli.run
import corral.scale.launch
import corral.scale.sharded_checkpoints
from corral.cli.main import main as corral_command
from corral.data.dataset import Dataset
from corral.data.synthetic import markov_world

WORKER = "one worker of two"
KINDS = ("the process", WORKER)
OUTCOMES = ("killed", "before_a_checkpoint", "in_training", "after_training", "runs", "same", "lost", "corrupt")
RULES = (
    "A small planted world, a checkpoint after nearly every step. the process: SASRec, then DIN; one worker of two: "
    "both at once by CoRR, under torch's launcher. Each is killed at a moment drawn uniformly from the time that an "
    "untouched one takes, and started again, the process by the same command, the workers by the launcher, until one "
    "gets through: later kills of a run hit what had gone on from a checkpoint. before_a_checkpoint, in_training, "
    "after_training (in the evaluation, or writing the bundle): what the kill interrupted. same: runs that ended as "
    "the untouched one, bundle and evaluation byte for byte, logs but for times. lost: runs that could not go on. "
    "corrupt: runs that ended otherwise, or left other files."
)
RECIPE = """
description: both stages on a small world, a checkpoint after nearly every step
seed: 3
threads: 1
data: {path: DATA}
split: {rule: time-cut, valid_fraction: 0.15, test_fraction: 0.15, repeats: true}
retriever: {kind: sasrec, size: 8, blocks: 1, dropout: 0.2, max_length: 8}
ranker: {kind: din, field_size: 4, history_length: 6, hidden: [6], dropout: 0.1}
evaluation: {num_candidates: 10}
"""
APART = """
retriever_training: {epochs: 6, batch_size: 16, patience: 2, checkpoint_seconds: 0.02}
ranker_training: {epochs: 3, batch_size: 64, num_negatives: 4, sampler: popularity, checkpoint_seconds: 0.02}
"""
# The launcher's own limit is beyond what this loop gives a run.
TOGETHER = """
together: {kind: corr, num_codewords: 3, epochs: 4, batch_size: 16, patience: 0, checkpoint_seconds: 0.02}
scale: {workers: 2, max_restarts: 100}
"""


def start(recipe: Path, run: Path) -> int:
    """``corral train`` in a fork; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        torch.set_num_threads(1)
        corral.scale.launch.elastic_launch = _forking
        _corral("train", str(recipe), "--run", str(run), "--quiet")
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def _forking(config: LaunchConfig, program: str) -> Callable[..., Any]:
    """Torch's launcher, whose workers are forks that do what ``PROGRAM -m corral WORDS`` would have done."""
    return elastic_launch(replace(config, start_method="fork"), _worker)


def _worker(*words: str) -> None:
    _corral(*words[2:])


def _corral(*words: str) -> None:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    try:
        corral_command(words)
    except SystemExit as leaving:
        if leaving.code:
            raise RuntimeError(f"corral {' '.join(words)}: exit code {leaving.code}") from leaving


def over(process: int, seconds: float | None = None) -> bool:
    """Whether a process has ended, or does so in so many seconds (None: waits for it)."""
    try:
        end = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([end], [], [], seconds)[0])
    finally:
        os.close(end)


def status_of(child: int) -> int:
    """What a child ended with; waits for it."""
    return os.waitpid(child, 0)[1]


def workers_of(launcher: int, before: set[int]) -> set[int]:
    """Both workers of a launcher, once they are there and none is among those ``before``; none where it ends first."""
    while not over(launcher, 0.01):
        children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
        found = {int(child) for child in children if not over(int(child), 0)}
        if len(found) == 2 and not found & before:
            return found
    return set()


def stage_of(run: Path) -> str:
    """How far a training had come."""
    if (run / "evaluation").exists() or (run / "bundle").exists():
        return "after_training"
    return "in_training" if any(run.glob("*/checkpoint*")) else "before_a_checkpoint"


def train(kind: str, recipe: Path, run: Path, kills: int, moments: Iterator[float], found: dict[str, int]) -> int:
    """Trains, killed until one gets through or there were ``kills`` of them; what the last ended with."""
    child, workers = start(recipe, run), set[int]()
    while found["killed"] < kills:
        if kind == WORKER:
            workers = workers_of(child, workers)
        if over(child, next(moments)):
            return status_of(child)
        stage = stage_of(run)
        if kind == WORKER:
            victim = sorted(workers)[found["killed"] % 2]
            if over(victim, 0):
                continue
            os.kill(victim, signal.SIGKILL)
        else:
            os.kill(child, signal.SIGKILL)
            status = status_of(child)
            if not os.WIFSIGNALED(status):
                return status
            child = start(recipe, run)
        found["killed"] += 1
        found[stage] += 1
    return status_of(child)


def contents(run: Path) -> dict[str, Any]:
    """What a run says, by file; of the times and the checkpoints' numbers, which depend on the clock, nothing."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file() and path.parent.name != "tensorboard"):
        name = re.sub(r"-\d{6}", "", str(path.relative_to(run)))
        if "checkpoint" in name or "best" in name:  # their weights are the bundle's; here counts that they are there
            found[name] = found.get(name, 0) + 1
        elif path.suffix in (".json", ".jsonl"):
            found[name] = [_timeless(json.loads(text)) for text in _documents(path)]
        else:
            found[name] = path.read_bytes()
    return found


def _documents(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(inner) for key, inner in value.items() if key not in ("seconds", "time", "created")}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value


def moments(random: Random, seconds: float) -> Iterator[float]:
    """When to kill: so many seconds after a start."""
    while True:
        yield random.random() * seconds


def kill_loop(kind: str, folder: Path, kills: int, seed: int = 0) -> dict[str, float]:
    """Kills so many trainings; how they ended. FOLDER/whole and the last FOLDER/killed stay.

    Args:
        kind: one of ``KINDS``.
        folder: a new one.
        kills: how many.
        seed: of the moments.
    """
    folder.mkdir(parents=True)
    Dataset.write(folder / "data", markov_world(60, 16, length=14).interactions)
    recipe = folder / "small.yaml"
    recipe.write_text(RECIPE.replace("DATA", str(folder / "data")) + (TOGETHER if kind == WORKER else APART))
    began = time.perf_counter()
    if status_of(start(recipe, folder / "whole")):
        raise RuntimeError("a training failed that nobody touched")
    taken = time.perf_counter() - began
    whole, run, random = contents(folder / "whole"), folder / "killed", Random(seed)
    found = dict.fromkeys(OUTCOMES, 0)
    while found["killed"] < kills:
        shutil.rmtree(run, ignore_errors=True)
        found["runs"] += 1
        before, began = found["killed"], time.perf_counter()
        if train(kind, recipe, run, kills, moments(random, taken), found):
            found["lost"] += 1
            continue
        if found["killed"] == before:  # nobody touched it: how fast the machine is now
            taken = time.perf_counter() - began
        ending = contents(run)
        differing = sorted(name for name in {*whole, *ending} if whole.get(name) != ending.get(name))
        print(kind, found, *differing, flush=True)
        found["corrupt" if differing else "same"] += 1
    return {**found, "run_seconds": taken}


def cells(kills: int, folder: Path, done: set[tuple[str, str]]) -> Iterator[tuple[str, str, dict]]:
    """(data, what is killed, outcomes) of what is not done yet."""
    for place, kind in enumerate(KINDS):
        if (f"training-kills, {kills}", kind) not in done:
            yield f"training-kills, {kills}", kind, kill_loop(kind, folder / f"training-kills-{place}", kills)
            shutil.rmtree(folder / f"training-kills-{place}")
