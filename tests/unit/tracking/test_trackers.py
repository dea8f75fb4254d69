"""Runs sent to real trackers (an MLflow database, W&B's offline files) and read back; only what is new is sent."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from corral.tracking.tracked_run import Sent, TrackedRun, all_sent, judged_numbers, new_numbers

FIRST = {"epoch": 0, "step": 10, "loss/total": 2.5, "ndcg@10": 0.1}
SECOND = {"epoch": 1, "step": 20, "loss/total": 2.0, "ndcg@10": math.nan}


@pytest.fixture
def run(tmp_path: Path) -> TrackedRun:
    page = tmp_path / "report.html"
    page.write_text("a page", "utf-8")
    settings = {f"ranker.s{place}": str(place) for place in range(150)}
    facts = {"corral.data_hash": "abc"}
    return TrackedRun("shop-0", "a recipe", {**settings, "seed": "7"}, facts, {"together": [FIRST]}, files=[page])


@pytest.fixture
def judged(run: TrackedRun) -> TrackedRun:
    return replace(run, logs={"together": [FIRST, SECOND]}, metrics={"ndcg@10": 0.2, "auc": math.nan})


def test_only_what_is_new_is_sent(run: TrackedRun, judged: TrackedRun) -> None:
    first = {"together/step": 10.0, "together/loss/total": 2.5, "together/ndcg@10": 0.1}
    assert list(new_numbers(run, None)) == [("together", 0, first)]
    known = all_sent(run, "here x", "id")
    assert known == Sent("here x", "id", {"together": 1}, finished=False)
    assert list(new_numbers(judged, known)) == [("together", 1, {"together/step": 20.0, "together/loss/total": 2.0})]
    assert judged_numbers(judged, known) == {"test/ndcg@10": 0.2}
    whole = all_sent(judged, "here x", "id")
    assert (list(new_numbers(judged, whole)), judged_numbers(judged, whole)) == ([], {})


def test_another_place_or_a_run_trained_anew_is_another_run(run: TrackedRun, judged: TrackedRun) -> None:
    known = all_sent(judged, "here x", "id")
    assert known.goes_on(judged, "here x")
    assert not known.goes_on(judged, "there x")
    assert not known.goes_on(run, "here x")
    assert not known.goes_on(replace(judged, metrics={}), "here x")


def test_mlflow_has_settings_curves_metrics_and_files(
    run: TrackedRun, judged: TrackedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from corral.tracking.mlflow_tracker import MlflowTracker

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    tracker = MlflowTracker("shops")
    known = tracker.send(run, None)
    client = mlflow.MlflowClient()
    assert client.get_run(known.run).info.status == "RUNNING"
    assert tracker.send(judged, known) == replace(known, epochs={"together": 2}, finished=True)
    (found,) = client.search_runs([client.get_experiment_by_name("shops").experiment_id])
    assert (found.info.run_name, found.info.status) == ("shop-0", "FINISHED")
    assert found.data.params == dict(run.settings)
    assert found.data.tags["corral.data_hash"] == "abc"
    curve = client.get_metric_history(known.run, "together/loss/total")
    assert [(point.step, point.value) for point in curve] == [(0, 2.5), (1, 2.0)]
    assert len(client.get_metric_history(known.run, "together/ndcg_at_10")) == 1
    assert found.data.metrics["test/ndcg_at_10"] == 0.2
    assert "test/auc" not in found.data.metrics
    assert [file.path for file in client.list_artifacts(known.run)] == ["report.html"]


def test_a_refusal_of_mlflow_is_told(run: TrackedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from corral.tracking.mlflow_tracker import MlflowTracker

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(ValueError, match=r"MLflow at sqlite:.* not found .*MLFLOW_TRACKING_URI"):
        MlflowTracker("shops").send(run, Sent("", "nothing-of-this-name"))


def test_no_password_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from corral.tracking.mlflow_tracker import MlflowTracker

    for uri, where in (
        ("https://me:secret@tracker.shop:5000/x", "https://tracker.shop:5000/x shops"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db shops"),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert MlflowTracker("shops").where() == where


def offline_records(data: bytes) -> Iterator[bytes]:
    """The records of an offline file: LevelDB's log (blocks of 32 KiB; pieces with checksum, length, kind)."""
    place, record = 7, b""
    while place + 7 <= len(data):
        if -place % 32768 < 7:  # the rest of a block that no header fits into
            place += -place % 32768
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


def test_wandb_has_settings_curves_metrics_and_files(
    run: TrackedRun, judged: TrackedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it would sync."""
    wandb = pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    from corral.tracking.wandb_tracker import WandbTracker

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    wandb.teardown()
    tracker = WandbTracker("shops")
    known = tracker.send(run, None)
    assert known.where == "http://127.0.0.1:1 shops (offline)"
    assert tracker.send(judged, known) == replace(known, epochs={"together": 2}, finished=True)
    wandb.teardown()
    points, summary, config, files = [], {}, {}, []
    for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime):
        for record in map(Record.FromString, offline_records(path.read_bytes())):
            if record.HasField("history"):
                points.append(
                    {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
                )
            if record.HasField("run"):
                assert (record.run.run_id, record.run.project) == (known.run, "shops")
                config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            summary |= {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.summary.update
            }
            files += [entry.path for entry in record.artifact.manifest.contents]
    assert [(point["together/epoch"], point["together/loss/total"]) for point in points] == [(0, 2.5), (1, 2.0)]
    assert "together/ndcg@10" not in points[1]
    assert summary["test/ndcg@10"] == 0.2
    assert (config["seed"], config["corral.data_hash"]) == ("7", "abc")
    assert "report.html" in files
