"""RAR, section 1: what SimHash's agreement means, and what it does not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from corral.rar.inner_product_hash import InnerProductHash
from corral.rar.selection import ExactSelector, SimHashSelector
from corral.rar.simhash import SimHash, hamming


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spread(n: int, size: int, seed: int) -> Tensor:
    """Vectors whose lengths differ by an order of magnitude: cosine and inner product disagree."""
    lengths = torch.exp(0.8 * torch.randn(n, 1, generator=seeded(seed + 100)))
    return lengths * functional.normalize(torch.randn(n, size, generator=seeded(seed)), dim=1)


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Mean Spearman correlation of rows."""
    ranks = [values.double().argsort(1).argsort(1).double() for values in (a, b)]
    return float(torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*ranks, strict=True)]).mean())


@pytest.mark.parametrize("degrees", [0.0, 10.0, 45.0, 90.0, 135.0, 180.0])
def test_a_bit_agrees_with_probability_one_minus_angle_over_pi(degrees: float) -> None:
    """20,000 independent bits: 4.5 standard errors, for vectors of any length."""
    bits, angle = 20_000, math.radians(degrees)
    pair = torch.zeros(2, 8)
    pair[0, 0] = 3.0
    pair[1, 0], pair[1, 1] = 0.2 * math.cos(angle), 0.2 * math.sin(angle)
    codes = SimHash(8, bits, seed=5, centre=False).codes(pair)
    agreed = 1 - float(hamming(codes[0], codes[1])) / bits
    wanted = 1 - angle / math.pi
    assert abs(agreed - wanted) <= 4.5 * math.sqrt(wanted * (1 - wanted) / bits) + 1e-9


def test_bits_are_independent_directions() -> None:
    """The number of agreeing bits of 64 is binomial over seeds: mean and variance."""
    pair = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    agreed = []
    for seed in range(400):
        codes = SimHash(3, 64, seed=seed, centre=False).codes(pair)
        agreed.append(64 - int(hamming(codes[0], codes[1])))
    counts = torch.tensor(agreed, dtype=torch.float64)
    assert abs(float(counts.mean()) - 48.0) < 4.5 * math.sqrt(64 * 0.75 * 0.25 / 400)
    assert 0.75 < float(counts.var()) / (64 * 0.75 * 0.25) < 1.3


def test_many_bits_order_by_cosine_and_not_by_inner_product() -> None:
    pool, queries = spread(300, 16, 0), spread(20, 16, 1)
    hashes = SimHash(16, 8_192, seed=3, centre=False)
    agreement = -hamming(hashes.query_codes(queries)[:, None], hashes.codes(pool)[None]).float()
    cosine = functional.normalize(queries, dim=1) @ functional.normalize(pool, dim=1).T
    assert rank_correlation(agreement, cosine) > 0.99
    assert rank_correlation(agreement, queries @ pool.T) < 0.95


@pytest.mark.parametrize("centre", [False, True])
def test_one_more_coordinate_makes_it_the_inner_product(centre: bool) -> None:
    """Also with the pool's mean taken out: a constant for each query."""
    pool, queries = spread(300, 16, 0) + 0.5, spread(20, 16, 1)
    hashes = InnerProductHash(16, 32_768, seed=3, centre=centre)
    hashes.fit(pool)
    agreement = -hamming(hashes.query_codes(queries)[:, None], hashes.codes(pool)[None]).float()
    cosine = functional.normalize(queries, dim=1) @ functional.normalize(pool, dim=1).T
    assert rank_correlation(agreement, queries @ pool.T) > 0.97
    assert rank_correlation(agreement, cosine) < 0.95


def test_the_angle_after_the_extra_coordinate_is_the_inner_product_exactly() -> None:
    """<q, x> = r |q| cos(angle) in float64, from P(agree) = 1 - angle / pi and very many bits for one pair."""
    pool = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, -2.0]])
    query = torch.tensor([[2.0, 1.0]])
    hashes = InnerProductHash(2, 200_000, seed=0, centre=False)
    hashes.fit(pool)
    share = 1 - hamming(hashes.query_codes(query)[:, None], hashes.codes(pool)[None])[0].double() / 200_000
    found = 5.0 * math.sqrt(5.0) * torch.cos(math.pi * (1 - share))
    torch.testing.assert_close(found, torch.tensor([10.0, 2.0, -2.0], dtype=torch.float64), atol=0.15, rtol=0)


def test_a_shared_mean_takes_the_bits_unless_it_is_taken_out() -> None:
    """Vectors with a common offset: at 64 bits centring finds more of the true cosine neighbours."""
    vectors = torch.randn(800, 24, generator=seeded(4)) + 2.0
    rows = torch.arange(2, 802)
    exact = ExactSelector()
    exact.fit(vectors, rows)
    true = exact.search(vectors, 10, rows).rows
    found = []
    for centre in (False, True):
        selector = SimHashSelector(64, seed=0, centre=centre)
        selector.fit(vectors, rows)
        got = selector.search(vectors, 10, rows).rows
        found.append(float((got[:, :, None] == true[:, None]).any(2).float().mean()))
    assert found[1] > found[0] + 0.05


def test_bits_and_rerank_approach_exact_cosine() -> None:
    vectors = torch.randn(1_000, 32, generator=seeded(6)) * torch.linspace(2.0, 0.2, 32)
    rows = torch.arange(2, 1_002)
    exact = ExactSelector()
    exact.fit(vectors, rows)
    true = exact.search(vectors, 10, rows).rows

    def recall(bits: int, rerank: int) -> float:
        selector = SimHashSelector(bits, seed=1, rerank=rerank)
        selector.fit(vectors, rows)
        return float((selector.search(vectors, 10, rows).rows[:, :, None] == true[:, None]).any(2).float().mean())

    plain = [recall(bits, 0) for bits in (32, 128, 512, 2_048)]
    assert plain == sorted(plain)
    assert plain[-1] > 0.8
    assert recall(128, 40) > plain[1] + 0.2
    assert recall(512, 40) > 0.95
