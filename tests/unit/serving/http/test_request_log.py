"""The log and the metrics: a line of JSON a request, and nothing of users in either."""

from __future__ import annotations

import json
import logging

import pytest
from small_service import LATER, SmallService

from corral.serving.http.request_log import JsonLines

SECRET = "secret-user-17"


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [json.loads(JsonLines().format(record)) for record in caplog.records]


def test_lines_say_what_was_asked_and_nothing_of_whom(
    service: SmallService, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    with service.client() as client:
        client.post("/v1/recommend", json={"users": [{"user_id": SECRET, "history": [SECRET]}]})
        client.post("/v1/events", json={"events": [{"user_id": SECRET, "item_id": SECRET, "time": LATER}]})
        client.post("/v1/recommend", json={"users": [{"user_id": SECRET}], SECRET: 1})
        client.get(f"/{SECRET}?user={SECRET}")

        def broken(*words: object, **keywords: object) -> None:
            raise RuntimeError(SECRET)

        monkeypatch.setattr(service.bundles.current.recommender, "predict", broken)
        client.post("/v1/predict", json={"pairs": [{"user_id": SECRET, "item_id": SECRET}]})
        counted = client.get("/metrics").text
    lines = [line for line in logged(caplog) if line["message"] == "request"]
    assert [(line["route"], line["status"]) for line in lines] == [
        ("/v1/recommend", 200),
        ("/v1/events", 200),
        ("/v1/recommend", 422),
        ("none", 404),
        ("/v1/predict", 500),
        ("/metrics", 200),
    ]
    assert all(line.keys() == {"time", "level", "message", "route", "status", "milliseconds"} for line in lines)
    assert all(SECRET not in json.dumps(line) for line in logged(caplog) if line["message"] == "request")
    assert SECRET not in counted
    assert 'corral_requests_total{route="/v1/recommend",status="422"} 1.0' in counted
    assert "corral_events_total 1.0" in counted
    assert 'corral_stage_seconds_count{stage="recommend"} 1.0' in counted


def test_an_exception_is_logged_without_its_text() -> None:
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
    line = JsonLines().format(logging.LogRecord("name", logging.ERROR, "", 0, "it failed", None, info))
    assert SECRET not in line
    parsed = json.loads(line)
    assert (parsed["error"], parsed["message"]) == ("ValueError", "it failed")
    assert "test_request_log.py:" in parsed["at"][0]
