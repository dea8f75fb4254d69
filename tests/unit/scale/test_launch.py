"""run_workers: all start again where one dies; nobody but this machine can reach them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("one_worker.py")
LAUNCH = """
import sys
from corral.scale.launch import run_workers
try:
    run_workers(sys.argv[2:], workers=2, max_restarts=int(sys.argv[1]))
except ValueError as error:
    sys.exit(f"refused: {error}")
"""


def launch(folder: Path, max_restarts: int) -> subprocess.CompletedProcess[str]:
    """In a process of its own: torch's agent takes over the handling of signals."""
    words = [sys.executable, "-c", LAUNCH, str(max_restarts), str(WORKER), str(folder)]
    return subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)


def test_all_start_again_where_one_dies(tmp_path: Path) -> None:
    done = launch(tmp_path, max_restarts=1)
    assert done.returncode == 0, done.stderr
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {"0-1", "1-0", "1-1"} <= set(found)
    # Any address of this machine but 127.0.0.1 stands for every other one.
    assert {found["1-0"], found["1-1"]} == {"2 127.0.0.1 True False"}
    # Where they met before, the dead have left their addresses.
    assert found["port-0"] != found["port-1"]


@pytest.mark.slow
def test_it_gives_up_after_as_many_restarts(tmp_path: Path) -> None:
    done = launch(tmp_path, max_restarts=0)
    assert done.returncode == 1
    assert "refused: the workers failed, after 0 restarts (exit codes by rank: {1: -9})" in done.stderr
    assert "The same command goes on from the last checkpoint" in done.stderr
