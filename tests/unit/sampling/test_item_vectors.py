"""The samplers that score every item: exact softmax, top-k and top-k-random."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from corral.sampling.exact_softmax import ExactSoftmaxSampler
from corral.sampling.item_vectors import ItemVectors
from corral.sampling.top_k import TopKRandomSampler, TopKSampler

CATALOGUE = 2 + torch.randperm(50, generator=torch.Generator().manual_seed(0))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


VECTORS = torch.randn(50, 5, generator=seeded(1))
QUERIES = torch.randn(7, 5, generator=seeded(2))


def best(k: int) -> Tensor:
    """Each query's k best items [7, k], by a plain sort."""
    return CATALOGUE[(QUERIES @ VECTORS.T).argsort(1, descending=True)[:, :k]]


def test_exact_softmax_is_the_softmax() -> None:
    sampler = ExactSoftmaxSampler(CATALOGUE, size=5)
    sampler.refresh(VECTORS)
    log_q = sampler.log_q(QUERIES, CATALOGUE.expand(7, -1))
    torch.testing.assert_close(log_q, torch.log_softmax(QUERIES @ VECTORS.T, 1))


def test_exact_softmax_in_blocks() -> None:
    """Memory is bounded by scoring some queries at a time; the draws do not depend on how many."""
    sampler = ExactSoftmaxSampler(CATALOGUE, size=5)
    sampler.refresh(VECTORS)
    whole = sampler.sample(QUERIES, 40, seeded(3))
    sampler.item_vectors.block = 3
    blocks = sampler.sample(QUERIES, 40, seeded(3))
    assert torch.equal(whole.items, blocks.items)
    torch.testing.assert_close(whole.log_q, blocks.log_q)
    torch.testing.assert_close(sampler.log_q(QUERIES, whole.items), whole.log_q)


def test_extreme_scores() -> None:
    sampler = ExactSoftmaxSampler(CATALOGUE, size=5)
    sampler.refresh(VECTORS)
    sample = sampler.sample(1e4 * QUERIES, 20, seeded(3))
    assert torch.equal(sample.items, best(1).expand(7, 20))
    torch.testing.assert_close(sample.log_q, torch.zeros(7, 20))


@pytest.mark.parametrize(("k", "n"), [(10, 10), (10, 4), (10, 23), (1, 3), (80, 60)])
def test_top_k_is_a_cycle_of_the_best(k: int, n: int) -> None:
    sampler = TopKSampler(CATALOGUE, size=5, k=k)
    sampler.refresh(VECTORS)
    cycle = best(min(k, 50)).repeat(1, -(-n // min(k, 50)))[:, :n]
    assert torch.equal(sampler.sample(QUERIES, n, seeded(0)).items, cycle)


def test_top_k_random_draws_all_of_the_best_alike_and_nothing_else() -> None:
    sampler = TopKRandomSampler(CATALOGUE, size=5, k=8)
    sampler.refresh(VECTORS)
    items = sampler.sample(QUERIES, 8_000, seeded(0)).items
    hits = (items[:, :, None] == best(8)[:, None, :]).double().mean(1)
    torch.testing.assert_close(hits, torch.full((7, 8), 1 / 8, dtype=torch.float64), rtol=0, atol=0.02)
    torch.testing.assert_close(hits.sum(1), torch.ones(7, dtype=torch.float64))


def test_equal_scores_have_an_order() -> None:
    sampler = TopKSampler(CATALOGUE, size=5, k=4)
    sampler.refresh(torch.ones(50, 5))
    assert torch.equal(sampler.sample(QUERIES, 4, seeded(0)).items, CATALOGUE[:4].expand(7, 4))


def test_scores_are_float32_under_autocast() -> None:
    held = ItemVectors(CATALOGUE, size=5)
    held.refresh(VECTORS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ((part, scores),) = held.scores(QUERIES)
    assert part == slice(0, held.block)
    torch.testing.assert_close(scores, QUERIES @ VECTORS.T)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        TopKSampler(CATALOGUE, size=5, k=0)
    with pytest.raises(ValueError, match=r"need item vectors \[50, 5\]"):
        ExactSoftmaxSampler(CATALOGUE, size=5).refresh(VECTORS[:, :4])
