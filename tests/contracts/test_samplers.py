"""What every sampler owes its callers. A new sampler joins by one line in ``SAMPLERS``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from corral.corr.multi_index_sampler import MultiIndexSampler, _Scores
from corral.sampling.exact_softmax import ExactSoftmaxSampler
from corral.sampling.in_batch import InBatchSampler
from corral.sampling.popularity import PopularitySampler
from corral.sampling.sampler import Sample
from corral.sampling.top_k import TopKRandomSampler, TopKSampler
from corral.sampling.uniform import UniformSampler
from corral.testing.samplers import (
    CATALOGUE,
    CHECKS,
    COUNTS,
    NORMALISED_CHECKS,
    SIZE,
    VECTORS,
    MakeSampler,
    a_biased_one_says_so,
    check_sampler,
    frequencies,
    log_probabilities,
    one_item,
    queries,
    small_sampler,
    state_makes_a_fresh_sampler_go_on,
)
from corral.testing.small_world import seeded


def in_batch(catalogue: Tensor, window: int) -> InBatchSampler:
    sampler = InBatchSampler(catalogue, window=window, uniform_share=0.1)
    for batch in catalogue[torch.randint(min(40, len(catalogue)), (30, 16), generator=seeded(24))]:
        sampler.observe(batch)
    return sampler


SAMPLERS: dict[str, MakeSampler] = {
    "uniform": lambda items, counts: UniformSampler(items),
    "popularity": PopularitySampler,
    "popularity, flattened": partial(PopularitySampler, power=0.5),
    "popularity, power 0": partial(PopularitySampler, power=0.0),
    "in-batch": lambda items, counts: in_batch(items, 200),
    "in-batch, one batch": lambda items, counts: in_batch(items, 16),
    "in-batch, no batch yet": lambda items, counts: InBatchSampler(items),
    "exact softmax": lambda items, counts: ExactSoftmaxSampler(items, size=SIZE),
    "multi-index": lambda items, counts: MultiIndexSampler(items, size=SIZE, num_codewords=4),
    "multi-index, more cells than items": lambda items, counts: MultiIndexSampler(items, size=SIZE),
    "multi-index, more codewords than items": lambda items, counts: MultiIndexSampler(
        items, size=SIZE, num_codewords=128
    ),
}
BIASED: dict[str, MakeSampler] = {
    "top-k": lambda items, counts: TopKSampler(items, size=SIZE, k=20),
    "top-k-random": lambda items, counts: TopKRandomSampler(items, size=SIZE, k=20),
}
INDIFFERENT = (UniformSampler, PopularitySampler, InBatchSampler)


@pytest.mark.parametrize("name", SAMPLERS | BIASED)
@pytest.mark.parametrize("check", CHECKS)
def test_contract(check: Callable[[Any], None], name: str) -> None:
    check(small_sampler((SAMPLERS | BIASED)[name]))


@pytest.mark.parametrize("name", SAMPLERS | BIASED)
@pytest.mark.parametrize("check", [state_makes_a_fresh_sampler_go_on, one_item])
def test_contract_of_new_ones(check: Callable[[MakeSampler], None], name: str) -> None:
    check((SAMPLERS | BIASED)[name])


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("check", NORMALISED_CHECKS)
def test_contract_of_normalised_ones(check: Callable[[Any], None], name: str) -> None:
    sampler = small_sampler(SAMPLERS[name])
    assert sampler.normalised
    check(sampler)


@pytest.mark.parametrize("name", BIASED)
def test_the_biased_ones_say_so(name: str) -> None:
    sampler = small_sampler(BIASED[name])
    assert not sampler.normalised
    a_biased_one_says_so(sampler)
    with pytest.raises(AssertionError):
        log_probabilities(sampler)
    with pytest.raises(AssertionError):
        frequencies(sampler)


def test_all_checks_in_one_call() -> None:
    check_sampler(SAMPLERS["popularity"])
    check_sampler(BIASED["top-k"])


@pytest.fixture(params=SAMPLERS | BIASED)
def any_sampler(request: pytest.FixtureRequest) -> Any:
    return small_sampler((SAMPLERS | BIASED)[request.param])


def test_another_generator_draws_others(any_sampler: Any) -> None:
    first, other = (any_sampler.sample(queries(4), 30, seeded(seed)).items for seed in (9, 10))
    assert torch.equal(first, other) == (type(any_sampler) is TopKSampler)


def test_a_refresh_follows_the_vectors(any_sampler: Any) -> None:
    """Or, where the proposal does not use them, changes nothing."""
    before = any_sampler.sample(queries(4), 200, seeded(14))
    any_sampler.refresh(VECTORS.flip(0))
    after = any_sampler.sample(queries(4), 200, seeded(14))
    assert torch.equal(before.items, after.items) == isinstance(any_sampler, INDIFFERENT)


@pytest.mark.parametrize("name", SAMPLERS | BIASED)
def test_before_the_first_refresh(name: str) -> None:
    sampler = (SAMPLERS | BIASED)[name](CATALOGUE, COUNTS)
    if isinstance(sampler, INDIFFERENT):
        sampler.sample(queries(2), 3, seeded(0))
    else:
        with pytest.raises(RuntimeError, match="refresh"):
            sampler.sample(queries(2), 3, seeded(0))


@pytest.mark.parametrize("name", [name for name in SAMPLERS | BIASED if "batch" not in name or "no batch" in name])
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
        (SAMPLERS | BIASED)[name](catalogue, torch.ones_like(catalogue))


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
        (frequencies, "draws uniformly"),
        (frequencies, "one place off"),
        (frequencies, "draws padding"),
        (frequencies, "wrong sign"),
        (log_probabilities, "draws uniformly"),
        (log_probabilities, "not normalised"),
        (log_probabilities, "wrong sign"),
    ],
)
def test_the_checks_reject_a_wrong_sampler(check: Callable[[Any], None], fault: str) -> None:
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
        (frequencies, "cell sizes forgotten in k0"),
        (frequencies, "cell sizes forgotten in k1"),
        (frequencies, "k1 of another k0"),
        (log_probabilities, "not normalised"),
    ],
)
def test_the_checks_reject_a_wrong_multi_index(check: Callable[[Any], None], fault: str) -> None:
    # Three codewords: no cell is empty, so that even the wrong ones draw something that exists.
    sampler = WrongMultiIndex(CATALOGUE, size=SIZE, num_codewords=3)
    sampler.refresh(VECTORS)
    check(sampler)
    sampler.fault = fault
    with pytest.raises(AssertionError):
        check(sampler)
