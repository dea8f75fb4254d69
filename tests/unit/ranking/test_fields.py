from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest
import torch

from corral.data.batches import Query
from corral.data.features import FeatureTable
from corral.data.vocabulary import Vocabulary
from corral.ranking.fields import Fields, RequestFields
from corral.retrieval.feature_fields import NumericScale


@pytest.fixture
def user_features() -> FeatureTable:
    frame = pl.DataFrame({"user_id": ["u", "v"], "age": [30.0, None], "city": ["p", "q"]})
    return FeatureTable.build(frame, "user_id", Vocabulary.of(frame["user_id"]))


@pytest.fixture
def query() -> Query:
    user = torch.tensor([2, 3, 1])
    history = torch.tensor([[0, 0, 2, 3], [5, 4, 2, 2], [0, 0, 0, 0]])
    return Query(user, torch.full((3,), -1), history, torch.zeros(3, dtype=torch.int64))


def test_shapes_names_and_order(user_features: FeatureTable, item_features: FeatureTable, query: Query) -> None:
    fields = Fields(4, 6, user_features, item_features, field_size=7)
    assert fields.item_names == ("id", "brand", "genres", "price")
    users = ("user.id", "user.age", "user.city")
    assert fields.context_names == (*users, *(f"history.{name}" for name in fields.item_names))
    assert fields.context(query).shape == (3, 1, fields.num_context_fields, 7)
    assert fields.items(torch.tensor([[2, 0], [1, 5], [3, 3]])).shape == (3, 2, fields.num_item_fields, 7)
    assert fields.history(query).shape == (3, 4, 4, 7)
    bare = Fields(4, 6, field_size=7, user_id=False, pool_history=False)
    assert bare.num_context_fields == 0
    assert bare.context(query).shape == (3, 1, 0, 7)


def test_item_fields_are_the_same_wherever_the_item_stands(item_features: FeatureTable, query: Query) -> None:
    fields = Fields(4, 6, None, item_features, field_size=7, embedding_std=1.0)
    single = [fields.items(torch.tensor([[row]]))[0, 0] for row in range(6)]
    columns = fields.catalogue.columns
    for row in range(6):
        rows = torch.tensor([row])
        direct = [fields.catalogue.id(rows), *(column(rows) for column in columns)]
        torch.testing.assert_close(single[row], torch.cat(direct))
    history = fields.history(query)
    for b in range(3):
        for j in range(4):
            torch.testing.assert_close(history[b, j], single[query.history[b, j]])


def test_pooled_history_is_the_mean_over_items(item_features: FeatureTable, query: Query) -> None:
    fields = Fields(4, 6, None, item_features, field_size=7, embedding_std=1.0)
    torch.nn.init.normal_(fields.catalogue.columns[2].missing_vector)  # what padding would leak
    context = fields.context(query)
    single = fields.items(torch.arange(6).unsqueeze(0))[0]
    torch.testing.assert_close(context[0, 0, 1:], single[[2, 3]].mean(0))
    torch.testing.assert_close(context[1, 0, 1:], single[[5, 4, 2, 2]].mean(0))
    assert torch.equal(context[2, 0, 1:], torch.zeros(4, 7))
    assert torch.equal(fields.context(query, fields.history(query)), context)


def test_sparse_gradients(item_features: FeatureTable, query: Query) -> None:
    fields = Fields(4, 6, None, item_features, field_size=3, sparse=True)
    (fields.context(query).sum() + fields.items(torch.tensor([[2], [3], [4]])).sum()).backward()
    tables = {name: p.grad for name, p in fields.named_parameters() if p.grad.is_sparse}
    assert len(tables) == 4  # user id, item id, brand, genres


def test_request_features(query: Query) -> None:
    fields = Fields(
        4, 6, field_size=3, pool_history=False, request_cardinalities={"page": 5},
        request_scales={"hour": NumericScale(12.0, 6.0)},
    )  # fmt: skip
    assert fields.context_names == ("user.id", "request.page", "request.hour")
    features = {"page": torch.tensor([2, 4, 0]), "hour": torch.tensor([18.0, 12.0, float("nan")])}
    asked = Query(query.user, query.event, query.history, query.time, features)
    request = fields.request
    torch.nn.init.normal_(request.biases)
    torch.nn.init.normal_(request.missing_vectors)
    context = fields.context(asked)[:, 0]
    assert torch.equal(context[:, 1], request.tables[0].weight[[2, 4, 0]])
    torch.testing.assert_close(context[0, 2], request.weights[0] + request.biases[0])
    torch.testing.assert_close(context[1, 2], request.biases[0])
    assert torch.equal(context[2, 2], request.missing_vectors[0])
    context.sum().backward()
    assert request.weights.grad.isfinite().all()
    with pytest.raises(ValueError, match="page"):
        fields.context(query)


def test_refuses_what_does_not_fit(item_features: FeatureTable) -> None:
    with pytest.raises(ValueError, match="6 rows, the vocabulary 9"):
        Fields(4, 9, None, item_features)
    with pytest.raises(ValueError, match=r"id_dropout must be in \[0, 1\), got 1"):
        Fields(4, 6, id_dropout=1)


def test_numbers_keep_what_float32_would_lose(query: Query) -> None:
    """Seconds since 1970, ten apart: float32 tells only every 128 from one another."""
    fields = RequestFields({}, {"now": NumericScale(1.7e9, 30.0)}, field_size=2, sparse=False, embedding_std=1.0)
    seconds = 1.7e9 + 10.0 * torch.arange(len(query), dtype=torch.float64)
    vectors = fields(replace(query, features={"now": seconds})).squeeze(1)
    torch.testing.assert_close(vectors, (seconds - 1.7e9).float()[:, None] / 30.0 * fields.weights)
