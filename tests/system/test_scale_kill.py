"""``corral train scale.workers=2`` whose workers are killed at random moments ends as if nobody had touched it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from corral.data.dataset import Dataset
from corral.data.synthetic import markov_world

KILLS = 4
RECIPE = """
description: CoRR on a small world, a checkpoint after nearly every step
seed: 3
threads: 1
data: {path: DATA}
split: {rule: time-cut, valid_fraction: 0.15, test_fraction: 0.15, repeats: true}
retriever: {kind: sasrec, size: 8, blocks: 1, dropout: 0.2, max_length: 8}
ranker: {kind: din, field_size: 4, history_length: 6, hidden: [6], dropout: 0.1}
together: {kind: corr, num_codewords: 3, epochs: 6, batch_size: 16, patience: 0, checkpoint_seconds: 0.05}
evaluation: {num_candidates: 10}
scale: {workers: 2, max_restarts: KILLS}
"""


def start(recipe: Path, run: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "corral", "train", str(recipe), "--run", str(run), "--quiet"]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def workers_of(agent: int) -> list[int]:
    """Its children that are workers: python with corral on the command line."""
    found = []
    for child in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_bytes() if Path(f"/proc/{child}").exists() else b""
        if b"train" in words:
            found.append(int(child))
    return found


def read(run: Path) -> tuple[list[Any], dict[str, float]]:
    log = [json.loads(line) for line in (run / "together" / "log.jsonl").read_text().splitlines()]
    (evaluation,) = (run / "evaluation").rglob("*.json")
    return [{**record, "seconds": 0} for record in log], json.loads(evaluation.read_text())["metrics"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in /proc")
def test_killed_workers_change_nothing(tmp_path: Path) -> None:
    Dataset.write(tmp_path / "data", markov_world(61, 16, length=14).interactions)
    recipe = tmp_path / "small.yaml"
    # A kill costs one restart: a start that fails by itself is one too many.
    recipe.write_text(RECIPE.replace("DATA", str(tmp_path / "data")).replace("KILLS", str(KILLS)))
    assert start(recipe, tmp_path / "whole").wait(timeout=300) == 0
    agent, chance, kills = start(recipe, tmp_path / "killed"), random.Random(1), 0
    while agent.poll() is None and kills < KILLS:
        before = len(list((tmp_path / "killed" / "together").glob("checkpoint-*")))
        time.sleep(chance.uniform(0.1, 3.0))
        workers = workers_of(agent.pid) if agent.poll() is None else []
        # A blow before the first checkpoint tests little: wait until training is under way.
        if len(workers) == 2 and before:
            os.kill(chance.choice(workers), signal.SIGKILL)
            kills += 1
            time.sleep(5)
    said = agent.communicate(timeout=400)[1]
    assert agent.returncode == 0, said
    assert kills >= 1
    assert "goes on from the last checkpoint" in said
    (log, metrics), (other_log, other_metrics) = read(tmp_path / "whole"), read(tmp_path / "killed")
    assert len(log) == 6
    for one, other in zip(log, other_log, strict=True):
        assert other == pytest.approx(one, rel=1e-9)
    assert other_metrics == metrics
    assert sorted(p.name.split("-")[0] for p in (tmp_path / "killed" / "together").iterdir()) == sorted(
        p.name.split("-")[0] for p in (tmp_path / "whole" / "together").iterdir()
    )
