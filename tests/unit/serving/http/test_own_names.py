"""Without tokens: no page of another site reads or changes anything, whatever name it gives this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from small_service import SmallService
from test_app import BODIES

from corral.cli.serve import LOOPBACK
from corral.serving.http.app import make_app
from corral.serving.http.own_names import OwnNames


@pytest.fixture
def client(service: SmallService) -> Iterator[TestClient]:
    app = make_app(service.bundles, service.store)
    app.add_middleware(OwnNames, names=LOOPBACK)
    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::1", "10.0.0.1"]
)
def test_other_names_are_refused(client: TestClient, host: str) -> None:
    for path, body in BODIES.items():
        answer = client.post(path, json=body, headers={"host": host})
        assert answer.status_code == 403
        assert "127.0.0.1 or localhost" in answer.json()["detail"]
    assert client.get("/v1/bundle", headers={"host": host}).status_code == 403
    assert client.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "https://evil.example:8000", "null", "file://", "http://[::1"]
)
def test_pages_of_others_are_refused(client: TestClient, origin: str) -> None:
    """A form or a script may send to this machine's own name; the browser says whose page it is on."""
    headers = {"host": "localhost:8000", "origin": origin}
    assert client.post("/v1/reload", headers=headers).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:80", "[::1]:8000"])
@pytest.mark.parametrize("origin", [None, "http://127.0.0.1:8000", "http://localhost:3000"])
def test_this_machine_is_answered(client: TestClient, host: str, origin: str | None) -> None:
    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    assert client.post("/v1/recommend", json=BODIES["/v1/recommend"], headers=headers).status_code == 200
    assert client.post("/v1/reload", headers=headers).status_code == 200
