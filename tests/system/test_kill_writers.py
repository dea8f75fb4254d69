"""Writers of data sets and bundles killed at random moments, a few times; and a disk that is full."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corral.cli.main import main
from corral.data.dataset import Dataset

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.parametrize("kind", ["preparation", "publication"])
def test_nothing_is_lost_or_corrupt(kind: str, tmp_path: Path) -> None:
    """Three kills; the benchmark (`corral bench scale --args "--sections kills"`) does fifty of each."""
    code = (
        "import json, sys, pathlib, scale_kills; "
        "print(json.dumps(scale_kills.kill_loop(sys.argv[1], pathlib.Path(sys.argv[2]), 3, events=20_000)))"
    )
    path = os.pathsep.join([str(BENCHMARKS), *sys.path])
    words = [sys.executable, "-c", code, kind, str(tmp_path / "kills")]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "PYTHONPATH": path})
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["killed"] == 3
    assert found["old_stays"] + found["new_in_place"] == 3
    assert (found["lost"], found["corrupt"], found["left_over"]) == (0, 0, 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_half(small_disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The old data set stays, the new one is not there, and the message says why."""
    random = np.random.default_rng(0)
    (tmp_path / "events").mkdir()
    for place, rows in enumerate((2_000, 400_000)):
        columns = {name: random.integers(0, 500, rows) for name in ("user_id", "item_id", "timestamp")}
        pl.DataFrame(columns).write_parquet(tmp_path / "events" / f"{place}.parquet")

    def add(source: Path, code: int) -> str:
        words = ["--from", str(source), "--format", "table", "--out", str(small_disk / "d"), "--overwrite"]
        with pytest.raises(SystemExit) as end:
            main(["data", "add", "d", *words])
        assert (end.value.code or 0) == code
        return capfd.readouterr().err

    add(tmp_path / "events" / "0.parquet", 0)
    before = Dataset.open(small_disk / "d").hash
    assert f"{os.strerror(errno.ENOSPC)}: '{small_disk / 'd'}'" in add(tmp_path / "events", 2)
    assert [path.name for path in small_disk.iterdir()] == ["d"]
    found = Dataset.open(small_disk / "d")
    found.verify()
    assert found.hash == before
