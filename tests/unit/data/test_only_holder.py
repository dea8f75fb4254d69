"""A lock that one holds at a time, and that is free when its process is gone."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from corral.data import only_holder as module
from corral.data.only_holder import only_holder

HOLD = """
import sys, time
from pathlib import Path
from corral.data.only_holder import only_holder
with only_holder(Path(sys.argv[1]), "no"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_one_at_a_time(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "held"
    path.mkdir() if kind == "directory" else path.write_text("x")
    with only_holder(path, "first"), pytest.raises(ValueError, match="the second"), only_holder(path, "the second"):
        pytest.fail("two hold it")
    with only_holder(path, "again"):
        pass
    with only_holder(tmp_path / "not there", "no"), only_holder(tmp_path / "not there", "no"):
        pass


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="taken"), only_holder(tmp_path, "taken"):
            pytest.fail("two hold it")
        other.kill()
        other.wait()
        with only_holder(tmp_path, "taken"):
            pass


def test_errors_inside_are_not_taken_for_refusals(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError, match="inside"), only_holder(tmp_path, "refused"):
        raise BlockingIOError("inside")


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(module.fcntl, "flock", flock)
    with only_holder(tmp_path, "no"), only_holder(tmp_path, "no"):
        pass
