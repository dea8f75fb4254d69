"""Another device than the CPU changes nothing, and no operator meets tensors of both; see other_device.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("trained_elsewhere.py")
QUICK = ("corr-rar", "rar", "clicks")
SYSTEMS = (
    *("corr-rar-recalled", "rar-own", "rar-event", "corr-weighted", "corr-weighted-full", "in-batch", "corr-in-batch"),
    *("corr-softmax", "corr-top-k", "corr-top-k-random", "corr-shared-table", "icc", "lcron", "rankflow"),
    *(f"ctr-{name}" for name in ("lr", "fm", "deepfm", "dcnv2", "autoint", "fibinet", "xdeepfm", "masknet")),
    *(f"ctr-{name}" for name in ("finalmlp", "din", "dien", "bst", "eta", "sdim")),
)


def trained(folder: Path, systems: tuple[str, ...], *runs: str) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), ",".join(systems), *runs],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [*systems, *runs]


def test_training_and_serving_elsewhere_are_the_same(tmp_path: Path) -> None:
    trained(tmp_path, QUICK, "corr-rar")


@pytest.mark.slow
def test_every_way_of_training_elsewhere_is_the_same(tmp_path: Path) -> None:
    trained(tmp_path, SYSTEMS, "corr", "two-stage", "gru4rec", "independent", "rar-plus")
