"""Places: the sums and gradients of autograd, in another order."""

import pytest
import torch
from torch.nn import functional

from corral.retrieval.places import Places


def asked(shape: tuple[int, ...] = (4, 3, 5)) -> torch.Tensor:
    return torch.randint(0, 20, shape, generator=torch.Generator().manual_seed(0))


def test_distinct_rows_stand_where_they_were_asked_for() -> None:
    rows = asked()
    distinct, places = Places.distinct(rows)
    assert distinct.tolist() == sorted(set(rows.flatten().tolist()))
    assert torch.equal(distinct[places.row], rows)


def test_values_and_gradients_are_those_of_a_plain_gather() -> None:
    rows = asked()
    distinct, places = Places.distinct(rows)
    vectors = torch.randn(len(distinct), 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(rows.shape, dtype=torch.float64, requires_grad=True)
    plain = functional.embedding(places.row, vectors)
    found = places.spread(vectors), places.weighted_sum(vectors, weights)
    expected = plain, (plain * weights[..., None]).sum(-2)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
        pull = torch.randn_like(one)
        wanted = torch.autograd.grad(other, (vectors, weights), pull, retain_graph=True, allow_unused=True)
        for gradient, right in zip(
            torch.autograd.grad(one, (vectors, weights), pull, retain_graph=True, allow_unused=True),
            wanted,
            strict=True,
        ):
            assert (gradient is None) == (right is None)
            if gradient is not None:
                torch.testing.assert_close(gradient, right)
    assert torch.autograd.gradcheck(places.weighted_sum, (vectors, weights))
    with torch.no_grad():
        torch.testing.assert_close(places.spread(vectors), expected[0])
        torch.testing.assert_close(places.weighted_sum(vectors, weights), expected[1])


def test_weights_alone_may_learn() -> None:
    distinct, places = Places.distinct(asked())
    weights = torch.rand(4, 3, 5, requires_grad=True)
    places.weighted_sum(torch.ones(len(distinct), 2), weights).sum().backward()
    assert weights.grad is not None
    torch.testing.assert_close(weights.grad, torch.full((4, 3, 5), 2.0))


@pytest.mark.parametrize("shape", [(2, 3, 0), (0, 3, 4)])
def test_empty_sets_give_zero(shape: tuple[int, ...]) -> None:
    distinct, places = Places.distinct(asked(shape))
    assert len(distinct) == 0
    vectors = torch.zeros(0, 3, requires_grad=True)
    assert places.spread(vectors).shape == (*shape, 3)
    summed = places.weighted_sum(vectors, torch.zeros(shape))
    assert summed.shape == (*shape[:-1], 3)
    assert not summed.any()
    (places.spread(vectors).sum() + summed.sum()).backward()
