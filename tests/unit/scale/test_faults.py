"""Workers killed, a disk full, a checkpoint cut in half, another number of workers each time: the same training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from corral.training.checkpoint import load_tensors

SCRIPT = Path(__file__).with_name("resumed_alike.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    (folder / "said").write_text(done.stderr)
    return folder


def phases(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "found.json").read_text())
    return found


def test_what_was_broken(folder: Path) -> None:
    assert [phase["failed"] for phase in phases(folder)] == [True] * 4 + [False]
    said = (folder / "said").read_text()
    assert "the checkpoint could not be written" in said
    assert "is damaged or gone; set aside as damaged-checkpoint-" in said


def test_a_full_disk_leaves_no_checkpoint_behind(folder: Path) -> None:
    before, full = (
        [name for name in phases(folder)[phase]["there"] if name.startswith("checkpoint-")] for phase in (0, 1)
    )
    assert full == before


def test_the_damaged_checkpoint_is_set_aside_and_nothing_else_is_left(folder: Path) -> None:
    there = phases(folder)[-1]["there"]
    assert len([name for name in there if name.startswith("damaged-")]) == 1
    assert len([name for name in there if name.startswith("checkpoint-")]) == 2
    assert len([name for name in there if name.startswith("best-")]) == 1
    assert [name for name in there if name.startswith(".")] == []


def test_the_same_losses(folder: Path) -> None:
    whole, broken = (
        [json.loads(line) for line in (folder / run / "log.jsonl").read_text().splitlines()]
        for run in ("whole", "broken")
    )
    assert len(whole) == 2
    for one, other in zip(whole, broken, strict=True):
        assert {**other, "seconds": 0} == pytest.approx({**one, "seconds": 0}, rel=1e-9)


def test_the_same_weights(folder: Path) -> None:
    (one, facts), (other, other_facts) = (load_tensors(folder / f"{run}.final") for run in ("whole", "broken"))
    assert facts == other_facts
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-6, atol=1e-8)
