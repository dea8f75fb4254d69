"""corral export, and corral serve --onnx: the answers of torch, from files that say what goes in and out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from click_runs import Train
from fastapi.testclient import TestClient

from corral.cli.main import main
from corral.cli.run import open_recommender
from corral.cli.run_files import BUNDLE
from corral.cli.serve import service_app
from corral.rar.ranker import RarRanker
from corral.serving.http.sqlite_events import SqliteEvents
from corral.serving.manifest import read_manifest

TOLERANCE = 1e-4
# All that a ranker may read: RAR's neighbours, co-visitation, as-of statistics, the retriever's score.
EVERYTHING = (
    "ranker.rar={blocks: 3, look_alikes: 4, recall_items: 3, bits: 64, rerank: 8, tower_size: 4}",
    "ranker.evidence={score: true}",
    "evaluation.correction=true",
    "index.exact_up_to=8",
)
Exported = tuple[Path, Path, str]


@pytest.fixture(scope="module")
def exported(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A bundle, its export, and what was printed."""
    experiment, _ = train(*EVERYTHING)
    bundle, out = experiment.directory / BUNDLE, tmp_path_factory.mktemp("export") / "onnx"
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("rich.console.Console.print", lambda self, text, **words: said.append(text))
        with pytest.raises(SystemExit) as leaving:
            main(["export", str(bundle), "--out", str(out)])
        assert leaving.value.code == 0
    return bundle, out, "\n".join(said)


def test_the_files_do_what_torch_does(exported: Exported) -> None:
    bundle, out, said = exported
    described = json.loads((out / "export.json").read_text())
    assert described["bundle"]["version"] == read_manifest(bundle).version
    assert list(described["models"]) == ["user_tower", "item_tower", "ranker"]
    for name, model in described["models"].items():
        assert f"{name}.onnx: {model['part']}, max abs difference {model['max_abs_difference']:.1e}" in said
        assert model["max_abs_difference"] <= TOLERANCE
    recommender = open_recommender(bundle, "cpu")
    assert isinstance(recommender.ranker, RarRanker)
    users = recommender.tables.users.ids.to_pylist()[:7]
    query = recommender.query(users)
    items = torch.arange(2, 15).repeat(7, 1)
    ranker = recommender.ranker.ranker
    late = [] if ranker.late is None else [ranker.late(query, items)]
    with torch.no_grad():
        vectors = recommender.retriever.encode_queries(query)
        item_vectors = recommender.retriever.encode_items(items)
        logits = recommender.ranker(query, items)
    scores = torch.einsum("bd,bnd->bn", vectors, item_vectors)
    given = {"user": query.user, "history": query.history, "time": query.time, "items": items, "scores": scores}
    given["evidence"] = torch.cat([ranker.evidence(query, items), *late], -1)  # type: ignore[misc]
    answers = {
        "user_tower": run(out, described, "user_tower", given),
        "item_tower": run(out, described, "item_tower", {"items": items[0]}),
        "ranker": run(out, described, "ranker", given),
    }
    np.testing.assert_allclose(answers["user_tower"], vectors, atol=TOLERANCE)
    np.testing.assert_allclose(answers["item_tower"], item_vectors[0], atol=TOLERANCE)
    np.testing.assert_allclose(answers["ranker"], logits, atol=TOLERANCE)


def run(out: Path, described: dict[str, Any], name: str, given: dict[str, torch.Tensor]) -> np.ndarray:
    """What ONNX Runtime makes of the inputs that export.json names."""
    model = described["models"][name]
    session = onnxruntime.InferenceSession(str(out / model["file"]), providers=["CPUExecutionProvider"])
    inputs = {}
    for one in model["inputs"]:
        inputs[one["name"]] = given[one["name"]].numpy()
        assert str(inputs[one["name"]].dtype) == one["dtype"]
        assert len(one["shape"]) == inputs[one["name"]].ndim
        assert isinstance(one["shape"][0], str)  # free
    answer: np.ndarray = session.run([model["outputs"][0]["name"]], inputs)[0]
    return answer


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteEvents]:
    events = SqliteEvents(tmp_path / "events.sqlite")
    yield events
    events.close()


def test_the_service_answers_as_with_torch(exported: Exported, store: SqliteEvents) -> None:
    bundle, out, _ = exported
    users = [{"user_id": user} for user in (0, 3, 7, 10**6)] + [{"user_id": None, "history": [1, 5, 2]}]
    asked = [
        ("/v1/recommend", {"users": users, "k": 6, "explain": True}),
        ("/v1/recommend", {"users": users, "k": 24, "deny": [3, 4]}),
        ("/v1/predict", {"pairs": [{"user_id": user, "item_id": item} for user in (0, 9) for item in (1, 2, 10**6)]}),
        ("/v1/similar-items", {"ids": [1, 7], "k": 5}),
        ("/v1/similar-users", {"ids": [1, 7], "k": 5}),
    ]
    event = {"events": [{"user_id": 3, "item_id": 11, "time": 10**9}]}
    with (
        TestClient(service_app(bundle, store)) as torch_client,
        TestClient(service_app(bundle, store, onnx=out)) as client,
    ):
        for _ in range(2):  # and again, with an event more
            for path, body in asked:
                got, wanted = (one.post(path, json=body) for one in (client, torch_client))
                assert got.status_code == wanted.status_code == 200, got.text
                assert_alike(got.json(), wanted.json())
            assert client.post("/v1/events", json=event).json()["used"] == 1
        assert client.get("/v1/bundle").json()["index"]["kind"] == "faiss-ivf"
        # The studio looks into the bundle's own models.
        pages = [one.get("/studio?user=3") for one in (client, torch_client)]
        assert [page.status_code for page in pages] == [200, 200]
        assert pages[0].text == pages[1].text
        assert client.post("/v1/reload").status_code == 200


def test_what_is_the_same_for_every_request_is_computed_at_load(exported: Exported, store: SqliteEvents) -> None:
    app = service_app(exported[0], store)
    ranker = app.state.service.bundles.current.recommender.ranker
    assert isinstance(ranker, RarRanker)
    for kept in (ranker._kept_users, ranker._kept_items):
        assert kept._kept is not None


def assert_alike(got: Any, wanted: Any) -> None:
    """Equal, numbers nearly."""
    if isinstance(wanted, dict):
        assert got.keys() == wanted.keys()
        for key, value in wanted.items():
            assert_alike(got[key], value)
    elif isinstance(wanted, list):
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            assert_alike(one, other)
    elif isinstance(wanted, float):
        assert got == pytest.approx(wanted, abs=TOLERANCE)
    else:
        assert got == wanted


def test_another_bundles_export_is_refused(exported: Exported, store: SqliteEvents, tmp_path: Path) -> None:
    bundle, out, _ = exported
    with pytest.raises(ValueError, match="write it with corral export"):
        service_app(bundle, store, onnx=tmp_path)
    other = tmp_path / "onnx"
    shutil.copytree(out, other)
    contents = json.loads((other / "export.json").read_text())
    (other / "export.json").write_text(json.dumps({**contents, "bundle": {"version": "another"}}))
    with pytest.raises(ValueError, match="was made of bundle another"):
        service_app(bundle, store, onnx=other)
    (other / "export.json").write_text(json.dumps(contents))
    weights = bytearray((other / "ranker.onnx").read_bytes())
    weights[-1] ^= 1
    (other / "ranker.onnx").write_bytes(weights)
    with pytest.raises(ValueError, match=r"ranker\.onnx is damaged"):
        service_app(bundle, store, onnx=other)
