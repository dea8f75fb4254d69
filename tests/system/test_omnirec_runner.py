"""The runner for OmniRec, without OmniRec: the same files and fields as its 1.1.0 hands over, what it takes back."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest

from corral.data.synthetic import markov_world

FILE = Path(__file__).resolve().parents[2] / "examples" / "omnirec" / "corral_runner.py"
SMALL = {
    "threads": 1,
    "retriever": {"kind": "sasrec", "size": 8, "blocks": 1, "max_length": 8},
    "retriever_training.epochs": 3,
    "ranker": None,
    "evaluation.correction": False,
}


@dataclass
class Runner:
    """The fields of ``omnirec_runner.runner.Runner``, version 1.1.0."""

    algorithm_name: str
    algorithm_config: dict[str, Any]
    dataset_name: str
    train_file: Path
    val_file: Path
    test_file: Path
    predictions_file: Path
    checkpoint_dir: Path
    tmp_dir: Path
    recommendation_n: int | None


@pytest.fixture
def runner_class(monkeypatch: pytest.MonkeyPatch) -> Any:
    stub = ModuleType("omnirec_runner.runner")
    stub.Runner, stub.RunnerService = Runner, object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "omnirec_runner", ModuleType("omnirec_runner"))
    monkeypatch.setitem(sys.modules, "omnirec_runner.runner", stub)
    return runpy.run_path(str(FILE))["Corral"]


def make(runner_class: Any, folder: Path, events: pl.DataFrame, n: int | None) -> Any:
    """Split in time, as OmniRec's CSV files."""
    order = events.sort("timestamp")
    cuts = {"train": (0, 500), "val": (500, 100), "test": (600, len(order))}
    for name, (start, length) in cuts.items():
        order.slice(start, length).write_csv(folder / f"{name}.csv")
    files = [folder / f"{name}.csv" for name in cuts]
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(exist_ok=True)
    return runner_class("two-stage", SMALL, "made up", *files, folder / "predictions.json", checkpoint, folder, n)


@pytest.mark.parametrize("timed", [True, False])
def test_fit_and_predict(runner_class: Any, tmp_path: Path, timed: bool) -> None:
    events = markov_world(50, 40, length=14).interactions.events.rename({"user_id": "user", "item_id": "item"})
    runner = make(runner_class, tmp_path, events, 5)
    if not timed:
        for name in ("train", "val", "test"):
            pl.read_csv(tmp_path / f"{name}.csv").drop("timestamp").write_csv(tmp_path / f"{name}.csv")
    runner.fit()
    # OmniRec predicts in another call, from what is on the disk.
    found = pl.DataFrame(json.loads(json.dumps(runner.predict())))
    assert found.columns == ["user", "item", "score", "rank"]
    assert found.group_by("user").agg(pl.col("rank").sort())["rank"].to_list() == [[1, 2, 3, 4, 5]] * 50
    had = pl.concat([pl.read_csv(tmp_path / f"{name}.csv").select("user", "item") for name in ("train", "val")])
    assert found.join(had, on=["user", "item"]).is_empty()


def test_the_test_part_teaches_nothing(runner_class: Any, tmp_path: Path) -> None:
    events = markov_world(50, 40, length=14).interactions.events.rename({"user_id": "user", "item_id": "item"})
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    answers = []
    for name in ("one", "other"):
        runner = make(runner_class, tmp_path / name, events, None)
        if name == "other":
            test = pl.read_csv(runner.test_file)
            test.with_columns(item=pl.lit(39)).write_csv(runner.test_file)
        runner.fit()
        answers.append(runner.predict())
    assert answers[0] == answers[1]
    assert max(answers[0]["rank"]) == 10


def test_ratings_are_refused(runner_class: Any, tmp_path: Path) -> None:
    events = markov_world(50, 40, length=14).interactions.events.rename({"user_id": "user", "item_id": "item"})
    runner = make(runner_class, tmp_path, events.with_columns(rating=pl.lit(3.0)), 5)
    with pytest.raises(ValueError, match="MakeImplicit"):
        runner.fit()
