"""CoRR, "The sampler": the proposal Q of the inverted multi-index, against the formula written out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from corral.corr.multi_index_sampler import MultiIndexSampler

CATALOGUE = torch.arange(2, 242)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def refreshed(vectors: Tensor, num_codewords: int) -> MultiIndexSampler:
    sampler = MultiIndexSampler(torch.arange(2, len(vectors) + 2), size=vectors.shape[1], num_codewords=num_codewords)
    sampler.refresh(vectors)
    return sampler


def by_hand(sampler: MultiIndexSampler, queries: Tensor) -> np.ndarray:
    """Q(i | q) = e^{<q, w_i>} / sum_{k0,k1} n e^{q0.C0 + q1.C1} in float64, one query and item at a time."""
    c0, c1 = sampler.codewords_0.double().numpy(), sampler.codewords_1.double().numpy()
    cells = [divmod(cell, sampler.num_codewords) for cell in sampler.cells.tolist()]
    answer = []
    for q in queries.double().numpy():
        q0, q1 = q[: c0.shape[1]], q[c0.shape[1] :]
        normaliser = sum(
            cells.count((k0, k1)) * math.exp(q0 @ c0[k0] + q1 @ c1[k1])
            for k0 in range(sampler.num_codewords)
            for k1 in range(sampler.num_codewords)
        )
        answer.append([math.exp(q @ np.concatenate([c0[k0], c1[k1]])) / normaliser for k0, k1 in cells])
    return np.array(answer)


@pytest.mark.parametrize(("num_codewords", "size"), [(1, 6), (4, 7), (9, 6), (20, 2)])
def test_q_is_the_formula(num_codewords: int, size: int) -> None:
    """Step 3; the cell sizes n count the items of each pair of codewords."""
    sampler = refreshed(torch.randn(60, size, generator=seeded(0)), num_codewords)
    queries = torch.randn(4, size, generator=seeded(1))
    log_q = sampler.log_q(queries, sampler.catalogue.items.expand(4, -1))
    np.testing.assert_allclose(log_q.double().exp().numpy(), by_hand(sampler, queries), rtol=2e-5)


@pytest.mark.parametrize("num_codewords", [5, 8, 12])
def test_q_is_the_exact_softmax_where_the_codewords_reproduce_the_vectors(num_codewords: int) -> None:
    """Planted: five halves by five halves, one to three items each, K at least five."""
    halves = torch.randn(2, 5, 4, generator=seeded(2))
    pairs = torch.randint(5, (2, 50), generator=seeded(3))
    vectors = torch.cat([halves[0, pairs[0]], halves[1, pairs[1]]], 1)
    sampler = refreshed(vectors, num_codewords)
    queries = 2 * torch.randn(6, 8, generator=seeded(4))
    log_q = sampler.log_q(queries, sampler.catalogue.items.expand(6, -1))
    torch.testing.assert_close(log_q, torch.log_softmax(queries @ vectors.T, 1), rtol=1e-5, atol=1e-5)


def test_q_is_the_exact_softmax_with_a_codeword_per_item() -> None:
    vectors = torch.randn(40, 5, generator=seeded(5))
    sampler = refreshed(vectors, 40)
    queries = torch.randn(6, 5, generator=seeded(6))
    log_q = sampler.log_q(queries, sampler.catalogue.items.expand(6, -1))
    torch.testing.assert_close(log_q, torch.log_softmax(queries @ vectors.T, 1), rtol=1e-5, atol=1e-5)


def test_one_codeword_is_uniform() -> None:
    sampler = refreshed(torch.randn(30, 4, generator=seeded(7)), 1)
    log_q = sampler.log_q(torch.randn(3, 4, generator=seeded(8)), sampler.catalogue.items.expand(3, -1))
    torch.testing.assert_close(log_q, torch.full((3, 30), -math.log(30)))


def test_more_codewords_come_closer_to_the_softmax() -> None:
    """KL(softmax || Q) falls in K: what the codewords are for."""
    vectors = torch.randn(240, 8, generator=seeded(9))
    queries = torch.randn(50, 8, generator=seeded(10))
    target = torch.log_softmax(queries @ vectors.T, 1)
    divergence = []
    for num_codewords in (1, 4, 16, 64, 240):
        log_q = refreshed(vectors, num_codewords).log_q(queries, CATALOGUE.expand(50, -1))
        divergence.append(float((target.exp() * (target - log_q)).sum(1).mean()))
    assert divergence == sorted(divergence, reverse=True)
    assert divergence[-1] == pytest.approx(0, abs=1e-5)
    assert divergence[2] < 0.5 * divergence[0]


@pytest.mark.parametrize("num_codewords", [3, 8, 32])
def test_the_two_draws_and_the_item_each_follow_their_law(num_codewords: int) -> None:
    """Step 2, in three chi-square tests: k0, then k1 given the likeliest k0, then the item within the largest cell."""
    sampler = refreshed(torch.randn(240, 8, generator=seeded(11)), num_codewords)
    query = torch.randn(1, 8, generator=seeded(12))
    draws = 60_000
    items = sampler.sample(query, draws, seeded(13)).items[0]
    probability = by_hand(sampler, query)[0]
    cells = sampler.cells.numpy()
    drawn = cells[items.numpy() - 2]

    k0_probability = np.bincount(cells // num_codewords, probability, num_codewords)
    k0_counts = np.bincount(drawn // num_codewords, minlength=num_codewords)
    assert agrees(k0_counts, k0_probability)

    likeliest = int(k0_probability.argmax())
    in_row = cells // num_codewords == likeliest
    k1_probability = np.bincount(cells[in_row] % num_codewords, probability[in_row], num_codewords)
    k1_counts = np.bincount(drawn[drawn // num_codewords == likeliest] % num_codewords, minlength=num_codewords)
    assert agrees(k1_counts, k1_probability)

    largest = int(np.bincount(drawn).argmax())
    members = np.flatnonzero(cells == largest)
    item_counts = np.bincount(items.numpy() - 2, minlength=240)[members]
    assert agrees(item_counts, np.ones(len(members)))


def agrees(counts: np.ndarray, weights: np.ndarray) -> bool:
    """Chi-square with a false alarm in a million; what has no weight must not be counted at all."""
    assert counts[weights == 0].sum() == 0
    kept = weights > 0
    expected = counts.sum() * weights[kept] / weights[kept].sum()
    return bool(kept.sum() < 2 or stats.chisquare(counts[kept], expected).pvalue > 1e-6)


def test_stale_codewords_are_corrected_for() -> None:
    """Step 5: the items moved, the index did not; an importance-weighted mean over the draws is still unbiased."""
    old, new = torch.randn(2, 240, 8, generator=seeded(14)) / 2
    sampler = refreshed(old, 8)
    query = torch.randn(1, 8, generator=seeded(15))
    target = torch.softmax(query @ new.T, 1)[0].double()
    value = torch.randn(240, generator=seeded(16)).double()
    sample = sampler.sample(query, 400_000, seeded(17))
    at = sample.items[0] - 2
    terms = target[at] * value[at] / sample.log_q[0].double().exp()
    error = float(terms.std() / len(terms) ** 0.5)
    assert abs(float(terms.mean() - (target * value).sum())) < 4.5 * error
    assert error < 0.01
