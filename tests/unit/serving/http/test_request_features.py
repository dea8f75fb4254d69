"""RequestFeatures: exactly those the ranker was trained with, in a form it can read."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from corral.ranking.fields import RequestFields
from corral.retrieval.feature_fields import NumericScale
from corral.serving.http.request_features import RequestFeatures


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
