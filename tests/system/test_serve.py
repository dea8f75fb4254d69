"""``corral serve`` on real bundles: swapped under load, with new items, started and stopped from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click_runs import Train
from fastapi.testclient import TestClient
from served_runs import small_run

from corral.cli.main import main
from corral.cli.run import build_part, open_recommender
from corral.cli.serve import service_app
from corral.serving.bundle import save_bundle
from corral.serving.http.sqlite_events import SqliteEvents
from corral.serving.new_items import add_items

USERS = [{"user_id": user} for user in range(20)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("served")
    return small_run(folder, 0), small_run(folder, 1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteEvents]:
    made = SqliteEvents(tmp_path / "events.sqlite")
    yield made
    made.close()


def recommend(client: TestClient, **changes: object) -> dict[str, Any]:
    answer = client.post("/v1/recommend", json={"users": USERS, "k": 5, **changes})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_bundles_swap_under_load(runs: tuple[Path, Path], store: SqliteEvents, tmp_path: Path) -> None:
    """No request fails, each is answered by one bundle alone, and a damaged bundle changes nothing."""
    bundle = tmp_path / "bundle"
    recommenders = [open_recommender(run, "cpu") for run in runs]

    def write(number: int) -> None:
        save_bundle(bundle, recommenders[number], data_name="small", data_hash=str(number))

    wanted: dict[str, list[list[int]]] = {}
    answers: list[tuple[str, list[list[int]]]] = []
    failures: list[BaseException] = []
    finished = threading.Event()
    write(0)
    with TestClient(service_app(bundle, store), raise_server_exceptions=False) as client:

        def lists(answer: dict[str, Any]) -> list[list[int]]:
            return [[item["item_id"] for item in one["items"]] for one in answer["lists"]]

        def load() -> None:
            try:
                while not finished.is_set():
                    answer = recommend(client)
                    answers.append((answer["bundle"], lists(answer)))
            except BaseException as error:
                failures.append(error)

        clients = [threading.Thread(target=load) for _ in range(4)]
        for thread in clients:
            thread.start()
        for number in (1, 0, 1, 0):
            write(number)
            reloaded = client.post("/v1/reload")
            assert reloaded.status_code == 200, reloaded.text
            found = recommenders[number].recommend(list(range(20)), 5)
            wanted[reloaded.json()["version"]] = found.item_ids
            weights = bundle / "ranker.safetensors"
            contents = bytearray(weights.read_bytes())
            contents[-1] ^= 1
            weights.write_bytes(contents)
            refused = client.post("/v1/reload")
            assert refused.status_code == 409
            assert "ranker.safetensors is damaged" in refused.json()["detail"]
            assert client.get("/v1/bundle").json()["version"] == reloaded.json()["version"]
        finished.set()
        for thread in clients:
            thread.join()
    assert not failures
    assert len(wanted) == 2
    assert {version for version, _ in answers} == set(wanted)
    assert all(found == wanted[version] for version, found in answers)


def test_new_items_are_served_after_a_reload(train: Train, store: SqliteEvents, tmp_path: Path) -> None:
    _, recommender = train()
    bundle = tmp_path / "bundle"
    save_bundle(bundle, recommender, data_name="small", data_hash="1")
    known = recommender.tables.items.ids.to_pylist()
    new = max(known) + 1
    column = next(iter(recommender.tables.item_features.columns.values()))
    assert column.vocabulary is not None
    items = pl.DataFrame({"item_id": [new], column.name: [column.vocabulary.ids[0].as_py()]})
    with TestClient(service_app(bundle, store), raise_server_exceptions=False) as client:
        assert recommend(client, allow=[new])["lists"][0]["items"] == []
        likes = {"user_id": 10**6, "item_id": new, "time": 10**9}
        assert client.post("/v1/events", json={"events": [likes]}).json() == {"stored": 1, "used": 0}
        assert recommend(client, users=[{"user_id": 10**6}])["lists"][0]["fallback"]
        longer = add_items(open_recommender(bundle, "cpu"), items, build_part)
        save_bundle(bundle, longer, data_name="small", data_hash="1")
        assert client.post("/v1/reload").json()["items"] == len(known) + 1
        assert [item["item_id"] for item in recommend(client, allow=[new])["lists"][0]["items"]] == [new]
        # kept from before it was known, and used now
        assert not recommend(client, users=[{"user_id": 10**6}])["lists"][0]["fallback"]


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as leaving:
        main(["serve", *map(str, words)])
    assert leaving.value.code == 2
    return capsys.readouterr().err


def test_what_cannot_be_served_is_refused_in_one_line(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CORRAL_TOKENS", raising=False)
    assert "--tokens FILE" in refused(capsys, runs[0], "--host", "0.0.0.0")
    assert "neither a bundle nor a run" in refused(capsys, tmp_path)
    assert "limits must be positive" in refused(capsys, runs[0], "--timeout", "0")
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("short\n")
    assert "tokens.txt, line 1" in refused(capsys, runs[0], "--tokens", tokens)
    monkeypatch.setenv("CORRAL_TOKENS", "short")
    assert "CORRAL_TOKENS, line 1" in refused(capsys, runs[0])


def test_from_the_command_line(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """Starts, says where it listens, asks for the token, keeps events beside the bundle, ends when told to."""
    token = "a-token-of-the-tests"
    command = [sys.executable, "-m", "corral.cli.main", "serve", str(runs[0]), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "CORRAL_TOKENS": token})
    assert server.stderr is not None
    try:
        messages = (json.loads(line)["message"] for line in server.stderr)
        address = next(word for message in messages for word in message.split() if word.startswith("http://"))
        assert address.startswith("http://127.0.0.1:")
        body = json.dumps({"events": [{"user_id": 1, "item_id": 2, "time": 10**6}]}).encode()
        request = urllib.request.Request(f"{address}/v1/events", body, {"content-type": "application/json"})
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request, timeout=20)
        request.add_header("authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert json.load(answer) == {"stored": 1, "used": 1}
    finally:
        server.send_signal(signal.SIGTERM)
        rest = server.communicate(timeout=30)[1]
    assert "Application shutdown complete" in rest
    assert Path(f"{runs[0]}.events.sqlite").is_file()
