"""RequestFeatures: exactly those the ranker was trained with, in a form it can read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from small_system import small_system
from torch import Tensor, nn

from corral.data.batches import Query
from corral.ranking.fields import RequestFields
from corral.retrieval.feature_fields import NumericScale
from corral.serving.http.app import make_app
from corral.serving.http.request_features import RequestFeatures
from corral.serving.http.served_bundle import LoadedBundle, ServedBundle
from corral.serving.http.sqlite_events import SqliteEvents
from corral.serving.manifest import Manifest


@pytest.fixture
def features() -> RequestFeatures:
    fields = RequestFields(
        {"device": 4}, {"hour": NumericScale(0.0, 1.0)}, field_size=2, sparse=False, embedding_std=0.1
    )
    return RequestFeatures.of(nn.ModuleDict({"deep": nn.ModuleDict({"inside": fields})}))


def test_names_and_codes_are_the_rankers(features: RequestFeatures) -> None:
    assert features == RequestFeatures({"device": 4}, frozenset({"hour"}))
    assert RequestFeatures.of(nn.Linear(1, 1)).names == RequestFeatures.of(None).names == []


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"device": 1},
        {"device": 1, "hour": 2.0, "more": 1},
        {"device": 4, "hour": 2.0},
        {"device": -1, "hour": 2.0},
        {"device": 1.5, "hour": 2.0},
        {"device": 1e300, "hour": 2.0},
    ],
)
def test_others_are_refused(features: RequestFeatures, given: dict[str, float | None]) -> None:
    with pytest.raises(ValueError, match="request feature"):
        features.check(given)


def test_tensors(features: RequestFeatures) -> None:
    requests: list[dict[str, float | None]] = [{"device": 3, "hour": 2.5}, {"device": None, "hour": None}]
    requests.append({"device": 0, "hour": 1e308})
    for one in requests:
        features.check(one)
    tensors = features.tensors(requests)
    assert tensors["device"].tolist() == [3, 0, 0]
    torch.testing.assert_close(
        tensors["hour"], torch.tensor([2.5, torch.nan, 1e308], dtype=torch.float64), equal_nan=True
    )


class HourRanker(nn.Module):
    """Before noon the items of high rows, after it those of low rows."""

    def __init__(self) -> None:
        super().__init__()
        scales = {"hour": NumericScale(12.0, 1.0)}
        self.fields = RequestFields({"device": 3}, scales, field_size=1, sparse=False, embedding_std=0.0)
        nn.init.constant_(self.fields.weights, -1.0)

    def forward(self, query: Query, items: Tensor) -> Tensor:
        return items * self.fields(query).sum(dim=(1, 2))[:, None]


def test_features_of_the_request_change_the_answer(tmp_path: Path) -> None:
    """Of each user in the request their own, and so for pairs."""
    system = small_system()
    system.ranker = HourRanker()  # type: ignore[assignment]
    bundle = LoadedBundle(system.recommender(num_candidates=30), Manifest("0", {}, {}, {}))
    users = [{"user_id": "u03", "features": {"hour": hour, "device": None}} for hour in (9, 20)]
    pairs = [{**user, "item_id": "i04"} for user in users]
    store = SqliteEvents(tmp_path / "events.sqlite")
    with TestClient(make_app(ServedBundle(lambda: bundle), store)) as client:
        assert client.get("/v1/bundle").json()["request_features"] == ["device", "hour"]
        lists = client.post("/v1/recommend", json={"users": users, "k": 30, "filter_seen": False}).json()["lists"]
        first, second = ([item["item_id"] for item in one["items"]] for one in lists)
        assert first == second[::-1] == [f"i{number:02d}" for number in range(29, -1, -1)]
        values = [one["value"] for one in client.post("/v1/predict", json={"pairs": pairs}).json()["predictions"]]
        assert values == pytest.approx([3 * 6, -8 * 6])  # (12 - hour) x row
        refused = client.post("/v1/recommend", json={"users": [{"user_id": "u03"}]})
        assert refused.status_code == 422
        assert "takes exactly device, hour" in refused.json()["detail"]
    store.close()
