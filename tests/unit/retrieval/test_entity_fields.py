from __future__ import annotations

import torch

from corral.data.features import FeatureTable
from corral.data.vocabulary import UNKNOWN
from corral.retrieval.entity_fields import EntityFields


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


def test_what_is_kept_is_what_would_be_computed_until_a_weight_changes(item_features: FeatureTable) -> None:
    entity = EntityFields(6, item_features, field_size=3, id_dropout=0.5, embedding_std=1.0).eval()
    rows = torch.tensor([[0, 1, 2, 5, 5]])
    wanted = entity(rows)
    entity.precompute()
    looked_up: list[object] = []
    entity.id.register_forward_hook(lambda *_: looked_up.append(None))
    with torch.no_grad():
        assert torch.equal(entity(rows), wanted)
        assert not looked_up
        entity.id.weight[5] += 1.0
        changed = entity(rows)
    assert looked_up
    assert torch.equal(changed, entity(rows).detach())
    assert not torch.equal(changed, wanted)


def test_without_features_there_is_nothing_to_keep() -> None:
    entity = EntityFields(6, field_size=3).eval()
    entity.precompute()
    with torch.no_grad():
        assert torch.equal(entity(torch.tensor([2, 3])), entity.id.weight[2:4, None])


def test_a_weighted_sum_is_that_of_the_vectors(item_features: FeatureTable) -> None:
    entity = EntityFields(6, item_features, field_size=3, embedding_std=1.0).double()
    rows, weights = torch.tensor([[2, 2, 5], [3, 0, 5], [0, 0, 0]]), torch.rand(3, 3, dtype=torch.float64)
    weights[2] = 0.0
    direction, parameters = torch.randn(3, 4, 3, dtype=torch.float64), list(entity.parameters())
    got, wanted = entity.weighted_sum(rows, weights), (entity(rows) * weights[..., None, None]).sum(1)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    assert got[2].eq(0).all()
    gradients = [torch.autograd.grad((sums * direction).sum(), parameters) for sums in (got, wanted)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    entity.eval().precompute()
    with torch.no_grad():
        torch.testing.assert_close(entity.weighted_sum(rows, weights), wanted, rtol=0, atol=1e-12)


def test_a_weighted_sum_has_dropped_ids_too(item_features: FeatureTable) -> None:
    entity = EntityFields(6, item_features, field_size=3, id_dropout=0.25, embedding_std=1.0)
    torch.nn.init.normal_(entity.id.weight[1])
    got = entity.weighted_sum(torch.full((4000, 1), 2), torch.ones(4000, 1))
    assert 0.22 < (got[:, 0] == entity.id.weight[UNKNOWN]).all(1).float().mean() < 0.28
    assert torch.equal(got[:, 1:], got[:1, 1:].expand(4000, -1, -1))


def test_a_row_named_often_has_one_sparse_gradient(item_features: FeatureTable) -> None:
    entity = EntityFields(6, item_features, field_size=3, sparse=True)
    entity(torch.tensor([[2, 2, 5, 2], [5, 5, 2, 2]])).sum().backward()
    assert sorted(entity.id.weight.grad._indices()[0].tolist()) == [2, 5]


def test_no_rows_give_nothing_and_still_have_a_gradient(item_features: FeatureTable) -> None:
    entity = EntityFields(6, item_features, field_size=3)
    none = torch.zeros(4, 0, dtype=torch.int64)
    vectors, sums = entity(none), entity.weighted_sum(none, torch.zeros(4, 0))
    assert vectors.shape == (4, 0, 4, 3)
    assert torch.equal(sums, torch.zeros(4, 4, 3))
    (vectors.sum() + sums.sum()).backward()
    assert entity.id.weight.grad.eq(0).all()
