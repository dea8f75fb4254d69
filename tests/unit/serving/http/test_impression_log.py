"""Served lists in files: only where asked for, only of users with an id, and never in an answer's way."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from small_service import SmallService

from corral.serving.http.app import make_app
from corral.serving.http.impression_log import ImpressionLog, ServedList


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]


def one(user: int = 1, time: int = 5) -> ServedList:
    return ServedList(user, time, [10, 20], "abc")


def test_files_are_rotated_by_size_and_belong_to_their_server(tmp_path: Path) -> None:
    logs = [ImpressionLog(tmp_path / "served", most_bytes=100, clock=lambda start=start: start) for start in (7.0, 8.0)]
    for user in range(5):
        for log in logs:
            log.write([one(user)])
    for log in logs:
        log.close()
        log.close()
    files = sorted((tmp_path / "served").iterdir())
    assert len(files) == 6
    assert all(file.stat().st_size < 250 for file in files)
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    found = lines(tmp_path / "served")
    assert sorted(line["user_id"] for line in found) == sorted([0, 1, 2, 3, 4] * 2)
    assert found[0] == {"user_id": 0, "time": 5, "item_ids": [10, 20], "bundle": "abc"}
    with pytest.raises(ValueError, match="time unit 'weeks'"):
        ImpressionLog(tmp_path, time_unit="weeks")


def test_a_line_is_with_the_system_before_write_returns(tmp_path: Path) -> None:
    log = ImpressionLog(tmp_path)
    log.write([one()])
    assert len(lines(tmp_path)) == 1  # read while the log is open, as after a kill
    log.close()


def test_the_service_logs_what_it_answers(service: SmallService, tmp_path: Path) -> None:
    """With the request's time, or the clock's in the data's unit; lists of nobody are left out."""
    log = ImpressionLog(tmp_path / "served", time_unit="minutes", clock=lambda: 120_000.0)
    ids = service.bundles.current.recommender.tables.users.ids.to_pylist()
    users = [{"user_id": ids[0]}, {}, {"user_id": "nobody knows" if isinstance(ids[0], str) else 10**9}]
    with TestClient(make_app(service.bundles, service.store, impressions=log)) as client:
        first = client.post("/v1/recommend", json={"users": users, "k": 3}).json()
        second = client.post("/v1/recommend", json={"users": users[:1], "k": 2, "time": 77}).json()
        client.post("/v1/recommend", json={"users": [{}], "k": 2})
    log.close()
    wanted = [
        (answer["lists"][place], time)
        for answer, place, time in ((first, 0, 2_000), (first, 2, 2_000), (second, 0, 77))
    ]
    found = lines(tmp_path / "served")
    assert [(line["user_id"], line["item_ids"], line["time"]) for line in found] == [
        (served["user_id"], [item["item_id"] for item in served["items"]], time) for served, time in wanted
    ]
    assert {line["bundle"] for line in found} == {first["bundle"]}


def test_without_being_asked_nothing_is_logged(client: TestClient, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*.jsonl"))
    assert client.post("/v1/recommend", json={"users": [{"user_id": 1}], "k": 3}).status_code in (200, 422)
    assert sorted(tmp_path.rglob("*.jsonl")) == before == []


def test_a_full_disk_costs_no_answer(service: SmallService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = ImpressionLog(tmp_path)

    def full(lists: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log, "write", full)
    user = service.bundles.current.recommender.tables.users.ids[0].as_py()
    with TestClient(make_app(service.bundles, service.store, impressions=log)) as client:
        for _ in range(2):
            assert client.post("/v1/recommend", json={"users": [{"user_id": user}], "k": 3}).status_code == 200
        told = 'corral_impressions_total{result="lost"} 2.0'
        # No answer waits for the log: it may be a little later.
        assert any(told in client.get("/metrics").text or time.sleep(0.05) for _ in range(200))
