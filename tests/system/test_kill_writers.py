"""Writers of data sets and bundles killed at random moments, a few times; and a disk that is full, in training too."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corral.cli.main import main
from corral.data.dataset import Dataset
from corral.data.synthetic import markov_world
from corral.training.checkpoint import load_tensors

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


@pytest.mark.slow
def test_a_training_whose_disk_was_full_goes_on(
    small_disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its checkpoint stays whole, the message names the place; with room again the result is the same."""
    Dataset.write(tmp_path / "data", markov_world(60, 16, length=14).interactions)
    (tmp_path / "small.yaml").write_text(
        f"""
        threads: 1
        data: {{path: {tmp_path / "data"}}}
        retriever: {{kind: sasrec, size: 8, blocks: 1, dropout: 0.2, max_length: 8}}
        retriever_training: {{epochs: 4, batch_size: 16, patience: 0, checkpoint_seconds: 0.02}}
        evaluation: {{num_candidates: 10}}
        """
    )

    def train(run: Path, code: int) -> str:
        with pytest.raises(SystemExit) as end:
            main(["train", str(tmp_path / "small.yaml"), "--run", str(run), "--quiet"])
        assert (end.value.code or 0) == code
        return capfd.readouterr().err

    train(tmp_path / "run", 0)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 50_000))
    checkpoint = small_disk / "run" / "retriever" / "checkpoint"
    assert f"{checkpoint}.next.safetensors: could not be written" in train(small_disk / "run", 2)
    left = {path.name for path in checkpoint.parent.iterdir()} - {"tensorboard"}
    assert left <= {"checkpoint.safetensors", "checkpoint.previous.safetensors", "best.safetensors", "log.jsonl"}
    load_tensors(checkpoint.with_suffix(".safetensors"))
    ballast.unlink()
    train(small_disk / "run", 0)
    for file in ("retriever/best.safetensors", "bundle/retriever.safetensors"):
        assert (small_disk / "run" / file).read_bytes() == (tmp_path / "run" / file).read_bytes()
