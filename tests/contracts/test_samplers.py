"""What every sampler owes its callers. A new sampler joins by one line in ``SAMPLERS``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from corral.sampling.popularity import PopularitySampler
from corral.sampling.sampler import Sample, Sampler
from corral.sampling.uniform import UniformSampler

SIZE = 6
# Rows with gaps, as a train catalogue has: items without train events are not in it.
CATALOGUE = torch.tensor([2, 3, 5, 6, 7, 11, 12, 13, 17, 18, 19, 23, 24, 29, 30, 31])
COUNTS = torch.tensor([90, 0, 1, 1, 40, 7, 3, 2, 2, 5, 8, 13, 0, 21, 60, 4])

SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "uniform": lambda: UniformSampler(CATALOGUE),
    "popularity": lambda: PopularitySampler(CATALOGUE, COUNTS),
    "popularity, flattened": lambda: PopularitySampler(CATALOGUE, COUNTS, power=0.5),
    "popularity, power 0": lambda: PopularitySampler(CATALOGUE, COUNTS, power=0.0),
}


@pytest.fixture(params=SAMPLERS)
def sampler(request: pytest.FixtureRequest) -> Sampler:
    made = SAMPLERS[request.param]()
    made.refresh(torch.randn(len(CATALOGUE), SIZE, generator=torch.Generator().manual_seed(0)))
    return made


def queries(count: int) -> Tensor:
    return torch.randn(count, SIZE, generator=torch.Generator().manual_seed(1))


def check_frequencies(sampler: Sampler, draws: int = 20_000) -> None:
    """The draws of each query follow exp(log_q): chi-square, with a false alarm in a million runs.

    Raises:
        AssertionError: they do not, or something outside the catalogue was drawn.
    """
    asked = queries(3)
    sample = sampler.sample(asked, draws, torch.Generator().manual_seed(2))
    probability = sampler.log_q(asked, CATALOGUE.expand(3, -1)).double().exp().numpy()
    for items, expected in zip(sample.items.numpy(), probability, strict=True):
        counts = np.bincount(items, minlength=int(CATALOGUE.max()) + 1)
        observed = counts[CATALOGUE.numpy()]
        assert observed.sum() == draws, "drawn outside the catalogue"
        assert stats.chisquare(observed, draws * expected / expected.sum()).pvalue > 1e-6


def check_log_q(sampler: Sampler) -> None:
    """log_q is normalised over the catalogue, and a sample carries the same numbers.

    Raises:
        AssertionError: it does not.
    """
    asked = queries(4)
    whole = sampler.log_q(asked, CATALOGUE.expand(4, -1))
    torch.testing.assert_close(whole.double().exp().sum(1), torch.ones(4, dtype=torch.float64), rtol=1e-5, atol=0)
    sample = sampler.sample(asked, 50, torch.Generator().manual_seed(3))
    torch.testing.assert_close(sample.log_q, sampler.log_q(asked, sample.items))


def test_is_a_sampler(sampler: Sampler) -> None:
    assert isinstance(sampler, Sampler)


def test_frequencies(sampler: Sampler) -> None:
    check_frequencies(sampler)


def test_log_q(sampler: Sampler) -> None:
    check_log_q(sampler)


@pytest.mark.parametrize(("count", "draws"), [(1, 1), (5, 7), (0, 3), (2, 0)])
def test_shapes_and_types(sampler: Sampler, count: int, draws: int) -> None:
    sample = sampler.sample(queries(count), draws, torch.Generator().manual_seed(0))
    assert sample.items.shape == sample.log_q.shape == (count, draws)
    assert sample.items.dtype == torch.int64
    assert sample.log_q.dtype == torch.float32
    assert not sample.log_q.requires_grad


def test_never_draws_reserved_rows_nor_items_outside_the_catalogue(sampler: Sampler) -> None:
    items = sampler.sample(queries(10), 5_000, torch.Generator().manual_seed(5)).items
    assert set(items.unique().tolist()) <= set(CATALOGUE.tolist())


def test_full_support(sampler: Sampler) -> None:
    """Every item can be drawn, also those without a train event: the corrections need it."""
    assert sampler.log_q(queries(2), CATALOGUE.expand(2, -1)).isfinite().all()


def test_same_generator_same_draws(sampler: Sampler) -> None:
    first, again = (sampler.sample(queries(4), 30, torch.Generator().manual_seed(9)).items for _ in range(2))
    other = sampler.sample(queries(4), 30, torch.Generator().manual_seed(10)).items
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    before = torch.get_rng_state()
    sampler.sample(queries(4), 30, torch.Generator().manual_seed(9))
    assert torch.equal(torch.get_rng_state(), before), "draws from its own generator only"


def test_draws_of_a_query_are_independent(sampler: Sampler) -> None:
    """With replacement: a pair of draws agrees as often as independent ones do."""
    asked = queries(1).expand(20_000, -1)
    items = sampler.sample(asked, 2, torch.Generator().manual_seed(11)).items
    agree = float((items[:, 0] == items[:, 1]).double().mean())
    probability = sampler.log_q(queries(1), CATALOGUE[None]).double().exp()
    expected = float((probability**2).sum())
    assert abs(agree - expected) < 5 * (expected * (1 - expected) / 20_000) ** 0.5


def test_an_empty_catalogue_is_refused() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="empty catalogue"):
        UniformSampler(nothing)
    with pytest.raises(ValueError, match="empty catalogue"):
        PopularitySampler(nothing, nothing)


class Wrong:
    """Popularity with something broken in it; the checks must notice."""

    def __init__(self, fault: str) -> None:
        self.fault, self.right = fault, PopularitySampler(CATALOGUE, COUNTS)

    def refresh(self, item_vectors: Tensor) -> None:
        pass

    def sample(self, query_vectors: Tensor, n: int, generator: torch.Generator) -> Sample:
        sample = self.right.sample(query_vectors, n, generator)
        if self.fault == "draws uniformly":
            return Sample(UniformSampler(CATALOGUE).sample(query_vectors, n, generator).items, sample.log_q)
        if self.fault == "one place off":
            return Sample(CATALOGUE[(torch.searchsorted(CATALOGUE, sample.items) + 1) % 16], sample.log_q)
        if self.fault == "draws padding":
            return Sample(torch.where(sample.items == 31, 0, sample.items), sample.log_q)
        return Sample(sample.items, self.log_q(query_vectors, sample.items))

    def log_q(self, query_vectors: Tensor, items: Tensor) -> Tensor:
        right = self.right.log_q(query_vectors, items)
        return right + 0.01 if self.fault == "not normalised" else -right if self.fault == "wrong sign" else right


@pytest.mark.parametrize(
    ("check", "fault"),
    [
        (check_frequencies, "draws uniformly"),
        (check_frequencies, "one place off"),
        (check_frequencies, "draws padding"),
        (check_frequencies, "wrong sign"),
        (check_log_q, "draws uniformly"),
        (check_log_q, "not normalised"),
        (check_log_q, "wrong sign"),
    ],
)
def test_the_checks_reject_a_wrong_sampler(check: Callable[[Sampler], None], fault: str) -> None:
    check(Wrong(""))
    with pytest.raises(AssertionError):
        check(Wrong(fault))
