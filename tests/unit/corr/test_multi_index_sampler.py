from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from corral.corr.multi_index_sampler import MAX_SPREAD, MultiIndexSampler
from corral.corr.quantization import quantize

SIZE = 6


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def refreshed(vectors: Tensor, num_codewords: int = 8, seed: int = 0) -> MultiIndexSampler:
    catalogue = torch.arange(2, len(vectors) + 2)
    sampler = MultiIndexSampler(catalogue, size=vectors.shape[1], num_codewords=num_codewords, seed=seed)
    sampler.refresh(vectors)
    return sampler


def check(sampler: MultiIndexSampler, queries: Tensor, draws: int = 20_000) -> None:
    """Normalised, and the draws follow it (chi-square, a false alarm in a million).

    Raises:
        AssertionError: not so.
    """
    items = sampler.catalogue.items
    log_q = sampler.log_q(queries, items.expand(len(queries), -1)).double()
    torch.testing.assert_close(log_q.exp().sum(1), torch.ones(len(queries), dtype=torch.float64), rtol=1e-5, atol=0)
    sample = sampler.sample(queries, draws, seeded(2))
    assert torch.equal(sample.log_q, sampler.log_q(queries, sample.items))
    for drawn, logs in zip(sample.items.numpy(), log_q.numpy(), strict=True):
        observed = np.bincount(sampler.catalogue.positions(torch.from_numpy(drawn)), minlength=len(items))
        expected = draws * np.exp(logs)
        # chi-square wants expectations that are not tiny: the rest is one class
        rare = expected < 5
        observed = np.append(observed[~rare], observed[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
        if expected[-1] < 5:
            assert observed[-1] < 30
            observed, expected = observed[:-1], expected[:-1]
        if len(observed) > 1:
            assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-6


@pytest.mark.parametrize("items", [1, 2, 50, 300])
@pytest.mark.parametrize("num_codewords", [1, 3, 8, 40])
def test_frequencies_whatever_m_and_k(items: int, num_codewords: int) -> None:
    """K^2 > M, K > M, one item, one codeword."""
    sampler = refreshed(torch.randn(items, SIZE, generator=seeded(0)), num_codewords)
    check(sampler, torch.randn(3, SIZE, generator=seeded(1)))


@pytest.mark.parametrize("size", [2, 3, 7])
def test_small_and_odd_sizes(size: int) -> None:
    check(refreshed(torch.randn(60, size, generator=seeded(0))), torch.randn(3, size, generator=seeded(1)))


def test_identical_vectors_are_drawn_uniformly() -> None:
    sampler = refreshed(torch.full((70, SIZE), 0.7), 16)
    queries = torch.randn(3, SIZE, generator=seeded(1))
    check(sampler, queries)
    log_q = sampler.log_q(queries, sampler.catalogue.items.expand(3, -1))
    torch.testing.assert_close(log_q, torch.full_like(log_q, -math.log(70)))


def test_a_cell_that_nobody_lives_in_is_never_drawn() -> None:
    """Two clusters on the diagonal: half the cells are empty, and the query likes an empty one best."""
    vectors = torch.tensor([[5.0, 0.0], [0.0, 5.0]]).repeat(20, 1)
    sampler = refreshed(vectors, 2)
    assert int((sampler.cell_sizes == 0).sum()) == 2
    queries = torch.tensor([[1.0, 1.0], [-3.0, 2.0], [0.0, 0.0]])
    check(sampler, queries)
    torch.testing.assert_close(
        sampler.log_q(queries, sampler.catalogue.items.expand(3, -1)), torch.log_softmax(queries @ vectors.T, 1)
    )


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3])
def test_extreme_scores_are_summed_as_logarithms(scale: float) -> None:
    """An item may be likely through k0 though its k1 is e^-scale times less likely than others."""
    vectors = torch.tensor([[2.0, 0.0], [0.0, 1.5], [0.0, 0.0], [2.0, 0.0]]).repeat(5, 1)
    sampler = refreshed(vectors, 3)
    queries = torch.tensor([[1.0, 1.0], [0.75, 1.0], [-1.0, -1.0], [0.0, 0.0]])
    scaled = torch.cat([scale * queries, queries])
    log_q = sampler.log_q(scaled, sampler.catalogue.items.expand(8, -1))
    expected = torch.log_softmax(scaled.double() @ vectors.T.double(), 1)
    torch.testing.assert_close(log_q.double(), expected, rtol=1e-5, atol=1e-5)
    check(sampler, scaled)
    assert (scale > 500) == (1.5 * scale > MAX_SPREAD)


def test_the_wide_path_and_the_fast_one_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = refreshed(torch.randn(80, SIZE, generator=seeded(0)))
    queries = torch.randn(5, SIZE, generator=seeded(1))
    fast = sampler.sample(queries, 500, seeded(2))
    monkeypatch.setattr("corral.corr.multi_index_sampler.MAX_SPREAD", -1.0)
    wide = sampler.sample(queries, 500, seeded(2))
    assert (fast.items == wide.items).double().mean() > 0.999
    same = fast.items == wide.items
    torch.testing.assert_close(fast.log_q[same], wide.log_q[same])


def test_before_the_first_refresh() -> None:
    sampler = MultiIndexSampler(torch.arange(2, 9), size=SIZE)
    with pytest.raises(RuntimeError, match="refresh"):
        sampler.sample(torch.zeros(1, SIZE), 1, seeded(0))
    with pytest.raises(RuntimeError, match="refresh"):
        sampler.log_q(torch.zeros(1, SIZE), torch.full((1, 1), 2))


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (torch.zeros(6, SIZE), r"need item vectors \[7, 6\], got \[6, 6\]"),
        (torch.zeros(7, SIZE + 1), r"need item vectors \[7, 6\], got \[7, 7\]"),
        (torch.full((7, SIZE), torch.nan), "item row 2 is not finite"),
    ],
)
def test_wrong_vectors_are_refused(vectors: Tensor, message: str) -> None:
    sampler = MultiIndexSampler(torch.arange(2, 9), size=SIZE)
    with pytest.raises(ValueError, match=message):
        sampler.refresh(vectors)
    assert not sampler.refreshed


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="size 1"):
        MultiIndexSampler(torch.arange(2, 9), size=1)
    with pytest.raises(ValueError, match="at least one codeword"):
        MultiIndexSampler(torch.arange(2, 9), size=4, num_codewords=0)


def test_state_makes_a_fresh_sampler_go_on_bit_for_bit() -> None:
    """Draws, and the next refresh, which starts from the codewords of the last."""
    sampler = refreshed(torch.randn(80, SIZE, generator=seeded(0)), seed=5)
    fresh = MultiIndexSampler(sampler.catalogue.items, size=SIZE, num_codewords=8, seed=5)
    fresh.load_state_dict(sampler.state_dict())
    queries, moved = torch.randn(5, SIZE, generator=seeded(1)), torch.randn(80, SIZE, generator=seeded(3))
    for _ in range(2):
        first, second = sampler.sample(queries, 30, seeded(2)), fresh.sample(queries, 30, seeded(2))
        assert torch.equal(first.items, second.items)
        assert torch.equal(first.log_q, second.log_q)
        sampler.refresh(moved)
        fresh.refresh(moved)
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in sampler.state_dict().items())


def test_a_refresh_starts_from_the_codewords_of_the_last() -> None:
    first, moved = torch.randn(80, SIZE, generator=seeded(0)), torch.randn(80, SIZE, generator=seeded(3))
    sampler, before = refreshed(first), quantize(first, 8, seed=0)
    sampler.refresh(moved)
    warm = quantize(moved, 8, previous=(before.codewords_0, before.codewords_1), seed=0)
    assert torch.equal(sampler.codewords_0, warm.codewords_0)
    assert torch.equal(sampler.codewords_1, warm.codewords_1)
    assert not torch.allclose(sampler.codewords_0, quantize(moved, 8, seed=0).codewords_0)


def test_a_refresh_keeps_the_buffers_that_others_hold() -> None:
    sampler = refreshed(torch.randn(80, SIZE, generator=seeded(0)))
    state = sampler.state_dict()
    sampler.refresh(torch.randn(80, SIZE, generator=seeded(3)))
    assert all(value.data_ptr() == state[name].data_ptr() for name, value in sampler.state_dict().items())


def test_stale_codewords_stay_consistent_with_their_draws() -> None:
    """The vectors are copied from, not kept: changing them in place changes nothing until the next refresh."""
    vectors = torch.randn(120, SIZE, generator=seeded(0))
    sampler = refreshed(vectors)
    queries = torch.randn(3, SIZE, generator=seeded(1))
    before = sampler.log_q(queries, sampler.catalogue.items.expand(3, -1))
    vectors.neg_()
    assert torch.equal(sampler.log_q(queries, sampler.catalogue.items.expand(3, -1)), before)
    check(sampler, queries)
    sampler.refresh(vectors)
    assert not torch.equal(sampler.log_q(queries, sampler.catalogue.items.expand(3, -1)), before)
    check(sampler, queries)


def test_autocast_does_not_change_the_proposal() -> None:
    sampler = refreshed(torch.randn(80, SIZE, generator=seeded(0)))
    queries = torch.randn(5, SIZE, generator=seeded(1))
    plain = sampler.sample(queries, 30, seeded(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = sampler.sample(queries, 30, seeded(2))
    assert torch.equal(plain.items, low.items)
    assert torch.equal(plain.log_q, low.log_q)
    half = queries.bfloat16()
    assert torch.equal(sampler.log_q(half, plain.items), sampler.log_q(half.float(), plain.items))


def test_in_double_precision_it_is_normalised_to_the_last_digits() -> None:
    sampler = refreshed(torch.randn(80, SIZE, generator=seeded(0))).double()
    queries = torch.randn(5, SIZE, generator=seeded(1), dtype=torch.float64)
    log_q = sampler.log_q(queries, sampler.catalogue.items.expand(5, -1))
    torch.testing.assert_close(log_q.exp().sum(1), torch.ones(5, dtype=torch.float64), rtol=1e-12, atol=0)


def test_a_diverged_query_gives_nan_not_an_index_error() -> None:
    sampler = refreshed(torch.randn(80, SIZE, generator=seeded(0)))
    sample = sampler.sample(torch.full((2, SIZE), torch.nan), 5, seeded(0))
    assert sample.log_q.isnan().all()
    assert sample.items.min() >= 2
