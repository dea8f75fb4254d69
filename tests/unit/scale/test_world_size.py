"""The number of workers changes nothing: the same losses, norms, weights and draws as one ordinary process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("trained_alike.py")
QUICK = ("full-softmax", "sampled-softmax", "gru", "corr", "corr-rar", "rar", "clicks-score")
SYSTEMS = (
    *QUICK,
    "two-tower",
    "corr-events",
    "corr-rar-recalled",
    "rar-own",
    "rar-event",
    "clicks",
    "corr-weighted",
    "corr-weighted-full",
    "in-batch",
    "corr-in-batch",
    "corr-softmax",
    "corr-top-k",
    "corr-top-k-random",
    "corr-shared-table",
    "icc",
    "lcron",
    "rankflow",
)
CTR_MODELS = (
    *("lr", "fm", "deepfm", "dcnv2", "autoint", "fibinet", "xdeepfm", "masknet", "finalmlp"),
    *("din", "dien", "bst", "eta", "sdim"),
)
LARGE = "corr-large"  # another k-means than an ordinary process's


def trained(folder: Path, systems: tuple[str, ...], *sizes: int) -> Path:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), ",".join(systems), *map(str, sizes)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("two"), QUICK, 2)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("many"), (*SYSTEMS, LARGE), 1, 2, 3, 4)


@pytest.fixture(scope="module")
def ctr_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("ctr"), tuple(f"ctr-{name}" for name in CTR_MODELS), 2)


def read(folder: Path, system: str, workers: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{system}-{workers}.json").read_text())
    return found


def assert_alike(one: dict[str, Any], other: dict[str, Any], tolerance: float) -> None:
    assert one["generators"] == other["generators"]
    assert one["torch"] == other["torch"]
    assert len(one["losses"]) == len(other["losses"]) >= 5
    for step, (these, those) in enumerate(zip(one["losses"], other["losses"], strict=True)):
        assert these == pytest.approx(those, rel=tolerance), step
    assert one["weights"] == pytest.approx(other["weights"], abs=100 * tolerance)


@pytest.mark.parametrize("system", QUICK)
def test_two_workers_as_one_process(two: Path, system: str) -> None:
    assert_alike(read(two, system, 0), read(two, system, 2), 1e-10)


def assert_judged_alike(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["queries"] % 7
    assert len(set(one["events"])) == len(one["events"]) == one["queries"]
    assert one == other


def test_the_same_metrics_to_the_last_bit(two: Path) -> None:
    assert_judged_alike(read(two, "judged", 0), read(two, "judged", 2))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3, 4])
def test_the_same_metrics_by_any_number(many: Path, workers: int) -> None:
    assert_judged_alike(read(many, "judged", 0), read(many, "judged", workers))


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_any_number_as_one_process(many: Path, system: str) -> None:
    assert_alike(read(many, system, 0), read(many, system, 4), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("system", [*SYSTEMS, LARGE])
@pytest.mark.parametrize("workers", [2, 3, 4])
def test_any_number_of_workers(many: Path, system: str, workers: int) -> None:
    assert_alike(read(many, system, 1), read(many, system, workers), 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", CTR_MODELS)
def test_every_ctr_model(ctr_models: Path, name: str) -> None:
    assert_alike(read(ctr_models, f"ctr-{name}", 0), read(ctr_models, f"ctr-{name}", 2), 1e-10)
