"""BundleWatch: what is published is served without being asked for, and once refused not asked for again."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from small_service import SmallService

from corral.serving.http.app import make_app
from corral.serving.http.bundle_watch import BundleWatch


def watched(service: SmallService, published: Callable[[], str]) -> TestClient:
    return TestClient(make_app(service.bundles, service.store, watch=BundleWatch(published, 0.01)))


def until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.01)


def reloads(client: TestClient, result: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f'corral_reloads_total{{result="{result}"'))


def test_a_new_version_is_served_without_a_request(service: SmallService) -> None:
    published = [service.bundles.current.version]
    with watched(service, lambda: published[0]) as client:
        first = client.get("/v1/bundle").json()["version"]
        service.seed = 1
        published[0] = service._load().version
        until(lambda: client.get("/v1/bundle").json()["version"] != first)
        assert client.get("/v1/bundle").json()["version"] == published[0]
        assert reloads(client, "served") == 1


def test_what_is_refused_is_not_tried_again_and_what_cannot_be_read_is_waited_for(service: SmallService) -> None:
    looks = 0

    def published() -> str:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise FileNotFoundError("being replaced")
        return "another"

    service.failure = ValueError("damaged")
    first = service.bundles.current.version
    with watched(service, published) as client:
        until(lambda: looks > 10)
        assert reloads(client, "refused") == 1
        assert client.get("/v1/bundle").json()["version"] == first


@pytest.mark.parametrize("failure", [TypeError("unexpected keyword 'later'"), RuntimeError("out of memory")])
def test_no_failure_ends_the_watch(service: SmallService, failure: Exception) -> None:
    """A bundle of another version may fail in any way; the good one after it is served."""
    published = [service.bundles.current.version]
    with watched(service, lambda: published[0]) as client:
        service.failure = failure
        published[0] = "one that fails"
        until(lambda: reloads(client, "refused") == 1)
        assert client.post("/v1/reload").status_code == 409
        service.failure, service.seed = None, 1
        published[0] = service._load().version
        until(lambda: client.get("/v1/bundle").json()["version"] == published[0])


def test_an_interval_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive, got 0"):
        BundleWatch(lambda: "one", 0)
