"""What every sampler owes its callers. A new sampler joins by one line in ``SAMPLERS``."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from corral.corr.multi_index_sampler import MultiIndexSampler, _Scores
from corral.sampling.exact_softmax import ExactSoftmaxSampler
from corral.sampling.in_batch import InBatchSampler
from corral.sampling.popularity import PopularitySampler
from corral.sampling.sampler import Sample, Sampler
from corral.sampling.top_k import TopKRandomSampler, TopKSampler
from corral.sampling.uniform import UniformSampler


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SIZE = 6
# Rows with gaps, as a train catalogue has: items without train events are not in it. Not in order, either.
CATALOGUE = 2 + torch.randperm(200, generator=seeded(20))[:90]
COUNTS = torch.randint(0, 60, (90,), generator=seeded(21)) * torch.randint(0, 2, (90,), generator=seeded(22))
VECTORS = torch.randn(90, SIZE, generator=seeded(23))


def in_batch(window: int) -> InBatchSampler:
    sampler = InBatchSampler(CATALOGUE, window=window, uniform_share=0.1)
    for batch in CATALOGUE[torch.randint(40, (30, 16), generator=seeded(24))]:
        sampler.observe(batch)
    return sampler


SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "uniform": lambda: UniformSampler(CATALOGUE),
    "popularity": lambda: PopularitySampler(CATALOGUE, COUNTS),
    "popularity, flattened": lambda: PopularitySampler(CATALOGUE, COUNTS, power=0.5),
    "popularity, power 0": lambda: PopularitySampler(CATALOGUE, COUNTS, power=0.0),
    "in-batch": lambda: in_batch(200),
    "in-batch, one batch": lambda: in_batch(16),
    "in-batch, no batch yet": lambda: InBatchSampler(CATALOGUE),
    "exact softmax": lambda: ExactSoftmaxSampler(CATALOGUE, size=SIZE),
    "multi-index": lambda: MultiIndexSampler(CATALOGUE, size=SIZE, num_codewords=4),
    "multi-index, more cells than items": lambda: MultiIndexSampler(CATALOGUE, size=SIZE),
    "multi-index, more codewords than items": lambda: MultiIndexSampler(CATALOGUE, size=SIZE, num_codewords=128),
}
BIASED: dict[str, Callable[[], Sampler]] = {
    "top-k": lambda: TopKSampler(CATALOGUE, size=SIZE, k=20),
    "top-k-random": lambda: TopKRandomSampler(CATALOGUE, size=SIZE, k=20),
}


@pytest.fixture(params=SAMPLERS)
def sampler(request: pytest.FixtureRequest) -> Sampler:
    """A sampler with a corrected log_q."""
    made = SAMPLERS[request.param]()
    made.refresh(VECTORS)
    return made


@pytest.fixture(params=SAMPLERS | BIASED)
def make(request: pytest.FixtureRequest) -> Callable[[], Sampler]:
    """Makes any sampler, before its first refresh."""
    return (SAMPLERS | BIASED)[request.param]


@pytest.fixture
def any_sampler(make: Callable[[], Sampler]) -> Sampler:
    """Any sampler."""
    made = make()
    made.refresh(VECTORS)
    return made


def queries(count: int) -> Tensor:
    return torch.randn(count, SIZE, generator=seeded(1))


def check_frequencies(sampler: Sampler, draws: int = 40_000) -> None:
    """The draws of each query follow exp(log_q): chi-square, with a false alarm in a million runs.

    Raises:
        AssertionError: they do not, or something outside the catalogue was drawn.
    """
    asked = queries(4)
    sample = sampler.sample(asked, draws, seeded(2))
    probability = sampler.log_q(asked, CATALOGUE.expand(4, -1)).double().exp().numpy()
    for items, expected in zip(sample.items.numpy(), draws * probability, strict=True):
        observed = np.bincount(items, minlength=int(CATALOGUE.max()) + 1)[CATALOGUE.numpy()]
        assert observed.sum() == draws, "drawn outside the catalogue"
        # The statistic needs expectations that are not tiny: the rarest items count as one.
        order = expected.argsort()
        rare = order[: max(1, int((expected[order].cumsum() < 10).sum()) + 1)]
        common = np.setdiff1d(order, rare)
        observed = np.append(observed[common], observed[rare].sum())
        expected = np.append(expected[common], expected[rare].sum())
        assert stats.chisquare(observed, draws * expected / expected.sum()).pvalue > 1e-6


def check_log_q(sampler: Sampler) -> None:
    """log_q is normalised over the catalogue, and a sample carries the same numbers.

    Raises:
        AssertionError: it does not.
    """
    asked = queries(4)
    whole = sampler.log_q(asked, CATALOGUE.expand(4, -1))
    torch.testing.assert_close(whole.double().exp().sum(1), torch.ones(4, dtype=torch.float64), rtol=1e-5, atol=0)
    sample = sampler.sample(asked, 50, seeded(3))
    torch.testing.assert_close(sample.log_q, sampler.log_q(asked, sample.items))


def test_is_a_sampler(any_sampler: Sampler) -> None:
    assert isinstance(any_sampler, Sampler)
    assert isinstance(any_sampler, nn.Module)


def test_frequencies(sampler: Sampler) -> None:
    assert sampler.normalised
    check_frequencies(sampler)


def test_log_q(sampler: Sampler) -> None:
    check_log_q(sampler)


@pytest.mark.parametrize("name", BIASED)
def test_the_biased_ones_say_so(name: str) -> None:
    sampler = BIASED[name]()
    sampler.refresh(VECTORS)
    assert not sampler.normalised
    sample = sampler.sample(queries(3), 30, seeded(0))
    assert sample.log_q.eq(0).all()
    assert sampler.log_q(queries(3), CATALOGUE.expand(3, -1)).eq(0).all()
    with pytest.raises(AssertionError):
        check_log_q(sampler)
    with pytest.raises(AssertionError):
        check_frequencies(sampler)


@pytest.mark.parametrize(("count", "draws"), [(1, 1), (5, 7), (0, 3), (2, 0)])
def test_shapes_and_types(any_sampler: Sampler, count: int, draws: int) -> None:
    asked = queries(count).requires_grad_()
    sample = any_sampler.sample(asked, draws, seeded(0))
    assert sample.items.shape == sample.log_q.shape == (count, draws)
    assert sample.items.dtype == torch.int64
    log_q = any_sampler.log_q(asked, sample.items)
    assert log_q.shape == (count, draws)
    for logs in (sample.log_q, log_q):
        assert logs.dtype == torch.float32
        assert not logs.requires_grad


def test_never_draws_reserved_rows_nor_items_outside_the_catalogue(any_sampler: Sampler) -> None:
    items = any_sampler.sample(queries(10), 5_000, seeded(5)).items
    assert set(items.unique().tolist()) <= set(CATALOGUE.tolist())


def test_minus_infinity_outside_the_catalogue(any_sampler: Sampler) -> None:
    rows = torch.arange(0, 5_000)
    inside = torch.isin(rows, CATALOGUE)
    log_q = any_sampler.log_q(queries(2), rows.expand(2, -1))
    assert log_q[:, ~inside].eq(-torch.inf).all()
    assert log_q[:, inside].isfinite().all()


def test_full_support(sampler: Sampler) -> None:
    """Every item can be drawn, also those without a train event: the corrections need it."""
    assert sampler.log_q(queries(2), CATALOGUE.expand(2, -1)).isfinite().all()


def test_same_generator_same_draws(any_sampler: Sampler) -> None:
    first, again = (any_sampler.sample(queries(4), 30, seeded(9)).items for _ in range(2))
    other = any_sampler.sample(queries(4), 30, seeded(10)).items
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (type(any_sampler) is TopKSampler)
    before = torch.get_rng_state()
    any_sampler.sample(queries(4), 30, seeded(9))
    assert torch.equal(torch.get_rng_state(), before), "draws from its own generator only"


def test_draws_of_a_query_are_independent(sampler: Sampler) -> None:
    """With replacement: a pair of draws agrees as often as independent ones do."""
    asked = queries(1).expand(20_000, -1)
    items = sampler.sample(asked, 2, seeded(11)).items
    agree = float((items[:, 0] == items[:, 1]).double().mean())
    probability = sampler.log_q(queries(1), CATALOGUE[None]).double().exp()
    expected = float((probability**2).sum())
    assert abs(agree - expected) < 5 * (expected * (1 - expected) / 20_000) ** 0.5


def test_state_makes_a_fresh_sampler_go_on(make: Callable[[], Sampler]) -> None:
    """Resuming between two refreshes: the same draws from ``state_dict()`` alone."""
    first, fresh = make(), make()
    first.refresh(VECTORS)
    fresh.refresh(VECTORS.flip(0))
    if isinstance(fresh, InBatchSampler):
        fresh.observe(CATALOGUE[:7])
    cast(nn.Module, fresh).load_state_dict(cast(nn.Module, first).state_dict())
    drawn, again = (each.sample(queries(6), 40, seeded(12)) for each in (first, fresh))
    assert torch.equal(drawn.items, again.items)
    assert torch.equal(drawn.log_q, again.log_q)


def test_tensors_are_buffers(any_sampler: Sampler) -> None:
    """So that they move with ``.to(device)``; none is a parameter, which an optimiser would train."""
    module = cast(nn.Module, any_sampler)
    loose = [name for part in module.modules() for name, value in vars(part).items() if isinstance(value, Tensor)]
    assert not loose
    assert not list(module.parameters())


def test_item_vectors_are_copied_not_kept(make: Callable[[], Sampler]) -> None:
    """Training goes on after a refresh: the proposal is what it was at the refresh, in draws and in log_q."""
    sampler, vectors = make(), VECTORS.clone().requires_grad_()
    sampler.refresh(vectors)
    before = sampler.sample(queries(4), 30, seeded(13))
    with torch.no_grad():
        vectors.neg_()
    after = sampler.sample(queries(4), 30, seeded(13))
    assert torch.equal(before.items, after.items)
    assert torch.equal(before.log_q, after.log_q)
    if sampler.normalised:
        check_log_q(sampler)
        check_frequencies(sampler)


def test_a_refresh_follows_the_vectors(any_sampler: Sampler) -> None:
    """Or, where the proposal does not use them, changes nothing."""
    before = any_sampler.sample(queries(4), 200, seeded(14))
    any_sampler.refresh(VECTORS.flip(0))
    after = any_sampler.sample(queries(4), 200, seeded(14))
    indifferent = isinstance(any_sampler, UniformSampler | PopularitySampler | InBatchSampler)
    assert torch.equal(before.items, after.items) == indifferent
    if any_sampler.normalised:
        check_log_q(any_sampler)
        check_frequencies(any_sampler)


def test_before_the_first_refresh(make: Callable[[], Sampler]) -> None:
    sampler = make()
    if isinstance(sampler, UniformSampler | PopularitySampler | InBatchSampler):
        sampler.sample(queries(2), 3, seeded(0))
    else:
        with pytest.raises(RuntimeError, match="refresh"):
            sampler.sample(queries(2), 3, seeded(0))


ON_A_CATALOGUE: dict[str, Callable[[Tensor], Sampler]] = {
    "uniform": UniformSampler,
    "popularity": lambda catalogue: PopularitySampler(catalogue, torch.ones_like(catalogue)),
    "in-batch": InBatchSampler,
    "exact softmax": lambda catalogue: ExactSoftmaxSampler(catalogue, size=SIZE),
    "multi-index": lambda catalogue: MultiIndexSampler(catalogue, size=SIZE),
    "top-k": lambda catalogue: TopKSampler(catalogue, size=SIZE),
    "top-k-random": lambda catalogue: TopKRandomSampler(catalogue, size=SIZE),
}


@pytest.mark.parametrize("name", ON_A_CATALOGUE)
def test_one_item(name: str) -> None:
    sampler = ON_A_CATALOGUE[name](torch.tensor([7]))
    sampler.refresh(torch.randn(1, SIZE, generator=seeded(0)))
    sample = sampler.sample(queries(3), 5, seeded(0))
    assert sample.items.eq(7).all()
    torch.testing.assert_close(sample.log_q, torch.zeros(3, 5))


@pytest.mark.parametrize("name", ON_A_CATALOGUE)
@pytest.mark.parametrize(
    ("catalogue", "message"),
    [
        (torch.zeros(0, dtype=torch.int64), "empty catalogue"),
        (torch.tensor([4, 1, 3]), "row 1 is reserved"),
        (torch.tensor([4, 0, 3]), "row 0 is reserved"),
        (torch.tensor([4, 3, 4]), "once"),
        (torch.tensor([[4, 3]]), "int64"),
        (torch.tensor([4.0, 3.0]), "int64"),
    ],
)
def test_what_is_no_catalogue_is_refused(name: str, catalogue: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ON_A_CATALOGUE[name](catalogue)


class Wrong:
    """Popularity with something broken in it; the checks must notice."""

    normalised = True

    def __init__(self, fault: str) -> None:
        self.fault, self.right = fault, PopularitySampler(CATALOGUE, COUNTS)

    def refresh(self, item_vectors: Tensor) -> None:
        pass

    def sample(self, query_vectors: Tensor, n: int, generator: torch.Generator) -> Sample:
        sample = self.right.sample(query_vectors, n, generator)
        at = self.right.catalogue.positions(sample.items)
        if self.fault == "draws uniformly":
            return Sample(UniformSampler(CATALOGUE).sample(query_vectors, n, generator).items, sample.log_q)
        if self.fault == "one place off":
            return Sample(CATALOGUE[(at + 1) % len(CATALOGUE)], sample.log_q)
        if self.fault == "draws padding":
            return Sample(torch.where(at == 31, 0, sample.items), sample.log_q)
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


class WrongMultiIndex(MultiIndexSampler):
    """The mistakes one makes in a multi-index; each must be noticed."""

    fault = ""

    def _cell_weights(self, scores: _Scores, k0: Tensor) -> Tensor:
        weights = super()._cell_weights(scores, k0)
        if self.fault == "cell sizes forgotten in k1":
            return weights / self.cell_sizes.double()[k0].clamp(min=1)
        if self.fault == "k1 of another k0":
            return super()._cell_weights(scores, (k0 + 1) % self.num_codewords)
        return weights

    def _scores(self, query_vectors: Tensor) -> _Scores:
        right = super()._scores(query_vectors)
        if self.fault == "cell sizes forgotten in k0":
            weights = torch.softmax(right.first, 1)
            return _Scores(right.first, right.second, right.second_weights, right.wide, weights, right.total)
        if self.fault == "not normalised":
            nothing = torch.zeros_like(right.total)
            return _Scores(right.first, right.second, right.second_weights, right.wide, right.first_weights, nothing)
        return right


@pytest.mark.parametrize(
    ("check", "fault"),
    [
        (check_frequencies, "cell sizes forgotten in k0"),
        (check_frequencies, "cell sizes forgotten in k1"),
        (check_frequencies, "k1 of another k0"),
        (check_log_q, "not normalised"),
    ],
)
def test_the_checks_reject_a_wrong_multi_index(check: Callable[[Sampler], None], fault: str) -> None:
    # Three codewords: no cell is empty, so that even the wrong ones draw something that exists.
    sampler = WrongMultiIndex(CATALOGUE, size=SIZE, num_codewords=3)
    sampler.refresh(VECTORS)
    check(sampler)
    sampler.fault = fault
    with pytest.raises(AssertionError):
        check(sampler)
