from __future__ import annotations

import polars as pl
import pytest
import torch

from corral.data.batches import Query
from corral.data.features import FeatureTable
from corral.data.vocabulary import UNKNOWN, Vocabulary
from corral.ranking.feature_fields import NumericScale
from corral.ranking.fields import EntityFields, Fields


@pytest.fixture
def item_features() -> FeatureTable:
    frame = pl.DataFrame(
        {
            "item_id": [10, 11, 12, 13],
            "brand": ["a", "b", None, "a"],
            "genres": [["x", "y", "z"], ["y"], [], ["z"]],
            "price": [1.0, 3.0, None, 0.5],
            "title": ["one", "two", "three", "four"],
        }
    )
    return FeatureTable.build(frame, "item_id", Vocabulary.of(frame["item_id"]), ["title"])


@pytest.fixture
def user_features() -> FeatureTable:
    frame = pl.DataFrame({"user_id": ["u", "v"], "age": [30.0, None], "city": ["p", "q"]})
    return FeatureTable.build(frame, "user_id", Vocabulary.of(frame["user_id"]))


@pytest.fixture
def query() -> Query:
    user = torch.tensor([2, 3, 1])
    history = torch.tensor([[0, 0, 2, 3], [5, 4, 2, 2], [0, 0, 0, 0]])
    return Query(user, torch.full((3,), -1), history, torch.zeros(3, dtype=torch.int64))


def test_shapes_names_and_order(
    user_features: FeatureTable, item_features: FeatureTable, query: Query
) -> None:
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


def test_gradients_do_not_depend_on_looking_up_distinct_rows(item_features: FeatureTable) -> None:
    entity = EntityFields(6, item_features, field_size=3, embedding_std=1.0).double()
    rows = torch.tensor([[2, 2, 5], [3, 0, 5]])
    direction = torch.randn(2, 3, 4, 3, dtype=torch.float64)
    parameters = list(entity.parameters())
    got = torch.autograd.grad((entity(rows) * direction).sum(), parameters)
    flat = torch.stack(
        [entity.id(rows.flatten()), *(column(rows.flatten()) for column in entity.columns)], dim=1
    ).view_as(direction)
    for a, b in zip(got, torch.autograd.grad((flat * direction).sum(), parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_padding_stays_zero_and_unknown_starts_there() -> None:
    entity = EntityFields(6, field_size=3)
    assert torch.equal(entity(torch.tensor([0, 1])), torch.zeros(2, 1, 3))
    entity(torch.tensor([0, 1, 2])).sum().backward()
    assert entity.id.weight.grad[0].eq(0).all()
    assert entity.id.weight.grad[1].eq(1).all()


def test_id_dropout_trains_the_unknown_row_and_keeps_features(item_features: FeatureTable) -> None:
    entity = EntityFields(6, item_features, field_size=3, id_dropout=0.25, embedding_std=1.0)
    torch.nn.init.normal_(entity.id.weight[1])
    rows = torch.full((4000,), 2)
    got = entity(rows)
    dropped = (got[:, 0] == entity.id.weight[UNKNOWN]).all(1)
    assert 0.22 < dropped.float().mean() < 0.28
    assert torch.equal(got[~dropped, 0], entity.id.weight[2].expand(int((~dropped).sum()), 3))
    assert torch.equal(got[:, 1:], got[:1, 1:].expand(4000, -1, -1))
    got.sum().backward()
    assert entity.id.weight.grad[UNKNOWN].abs().sum() > 0
    padding = entity(torch.zeros(1000, dtype=torch.int64))[:, 0]
    assert torch.equal(padding, torch.zeros(1000, 3))
    entity.eval()
    assert torch.equal(entity(rows), entity(rows[:1]).expand(4000, -1, -1))


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
