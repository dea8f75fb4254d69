"""What a killed writer left behind is swept by the next one; what a living one is writing is not."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from corral.data.atomic_directory import atomic_directory

KILLED = """
import os, signal, sys
from pathlib import Path
from corral.data.atomic_directory import atomic_directory
with atomic_directory(Path(sys.argv[1]), overwrite=True, marker="marker") as files:
    files.text("marker", "half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_UNLOCKED = """
import fcntl, os, signal, sys
from pathlib import Path
from corral.data.atomic_directory import atomic_directory
fcntl.flock = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
with atomic_directory(Path(sys.argv[1]), overwrite=True, marker="marker"):
    pass
"""


def write(path: Path, text: str) -> None:
    with atomic_directory(path, overwrite=True, marker="marker") as files:
        files.text("marker", text)


def hidden(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.name.startswith(".")]


@pytest.mark.parametrize("program", [KILLED, KILLED_UNLOCKED], ids=["writing", "not locked yet"])
def test_a_killed_writer_is_swept(program: str, tmp_path: Path) -> None:
    path = tmp_path / "made [1]"
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert len(hidden(tmp_path)) == 1
    assert not path.exists()
    write(path, "whole")
    assert hidden(tmp_path) == []
    assert (path / "marker").read_text() == "whole"


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "made"
    with atomic_directory(path, overwrite=True, marker="marker") as files:
        files.text("marker", "first")
        write(path, "second")
        assert len(hidden(tmp_path)) == 1
        assert (files.directory / "marker").read_text() == "first"
    assert hidden(tmp_path) == []
    assert (path / "marker").read_text() == "first"


def test_a_sibling_swept_before_it_is_locked_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, lock = tmp_path / "made", fcntl.flock

    def another_writer_first(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        write(path, "another")
        lock(descriptor, operation)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", another_writer_first)
        write(path, "whole")
    assert hidden(tmp_path) == []
    assert (path / "marker").read_text() == "whole"
