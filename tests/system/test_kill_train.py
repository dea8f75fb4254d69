"""A run that is killed at random moments and started again ends as one that was never interrupted.

Three kills; the benchmark (`corral bench scale --args "--sections training-kills"`) does fifty.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from corral.training.checkpoint import load_tensors

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
KILLS = 3
CODE = """
import json, pathlib, sys, scale_kill_training as kills
print(json.dumps(kills.kill_loop(kills.KINDS[0], pathlib.Path(sys.argv[1]), int(sys.argv[2]), seed=1)))
"""


def without_times(value: Any) -> Any:
    """JSON without what depends on the clock."""
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in ("seconds", "time", "created")}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def lines(path: Path) -> list[Any]:
    return [without_times(json.loads(line)) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs") / "kills"
    path = os.pathsep.join([str(BENCHMARKS), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(folder), str(KILLS)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["killed"] == KILLS
    assert (found["same"], found["lost"], found["corrupt"]) == (found["runs"], 0, 0), done.stdout
    return folder / "whole", folder / "killed"


@pytest.mark.parametrize("stage", ["retriever", "ranker"])
def test_the_same_training(runs: tuple[Path, Path], stage: str) -> None:
    whole, killed = (run / stage for run in runs)
    for file in ("checkpoint.safetensors", "best.safetensors"):
        (one, facts), (other, other_facts) = load_tensors(whole / file), load_tensors(killed / file)
        assert one.keys() == other.keys()
        assert [name for name in one if not torch.equal(one[name], other[name])] == []
        assert without_times(facts) == without_times(other_facts)
    assert lines(whole / "log.jsonl") == lines(killed / "log.jsonl")
    assert len(lines(whole / "log.jsonl")) >= 2


def test_the_same_evaluation(runs: tuple[Path, Path]) -> None:
    texts = [sorted((run / "evaluation").rglob("*.json")) for run in runs]
    assert texts[0]
    assert [file.name for file in texts[0]] == [file.name for file in texts[1]]
    for one, other in zip(*texts, strict=True):
        assert without_times(json.loads(one.read_text())) == without_times(json.loads(other.read_text()))


def test_the_same_bundle(runs: tuple[Path, Path]) -> None:
    """Byte by byte, but for the manifest's dates."""
    bundles = [run / "bundle" for run in runs]
    names = [sorted(str(f.relative_to(bundle)) for f in bundle.rglob("*") if f.is_file()) for bundle in bundles]
    assert names[0] == names[1]
    assert any(name.endswith(".safetensors") for name in names[0])
    for name in names[0]:
        contents = [(bundle / name).read_bytes() for bundle in bundles]
        if name.endswith(".json"):
            one, other = (without_times(json.loads(content)) for content in contents)
            assert one == other, name
        else:
            assert contents[0] == contents[1], name


def test_the_same_files(runs: tuple[Path, Path]) -> None:
    """Nothing half-written is left behind (TensorBoard's files carry the process in their names)."""
    names = [
        sorted(str(f.relative_to(run)) for f in run.rglob("*") if f.is_file() and f.parent.name != "tensorboard")
        for run in runs
    ]
    assert names[0] == names[1]
