"""check_sampler: draws follow the distribution that a sampler declares, and it declares the right one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from corral.sampling.sampler import Sampler
from corral.testing.requirement import require, require_close
from corral.testing.small_world import seeded

# D of the query and item vectors.
SIZE = 6
# Rows with gaps, as a train catalogue has: items without train events are not in it. Not in order, either.
CATALOGUE = 2 + torch.randperm(200, generator=seeded(20))[:90]
# Train events of the catalogue's items.
COUNTS = torch.randint(0, 60, (90,), generator=seeded(21)) * torch.randint(0, 2, (90,), generator=seeded(22))
VECTORS = torch.randn(90, SIZE, generator=seeded(23))

# As ``corral.TwoStage(..., sampler=...)`` takes it: item rows [M] and their train events [M], to a module.
MakeSampler = Callable[[Tensor, Tensor], Any]


def small_sampler(make: MakeSampler) -> Any:
    """Over the small catalogue, refreshed."""
    sampler = make(CATALOGUE, COUNTS)
    sampler.refresh(VECTORS)
    return sampler


def queries(count: int) -> Tensor:
    """Query vectors [B, D]."""
    return torch.randn(count, SIZE, generator=seeded(1))


def is_a_sampler(sampler: Any) -> None:
    """A module with the methods of the protocol."""
    require(isinstance(sampler, Sampler), "a sampler has refresh, observe, sample, log_q and normalised")
    require(isinstance(sampler, nn.Module), "a sampler is an nn.Module: it moves to a device and is saved")


def frequencies(sampler: Any, draws: int = 40_000) -> None:
    """The draws of each query follow exp(log_q): chi-square, with a false alarm in a million runs."""
    asked = queries(4)
    sample = sampler.sample(asked, draws, seeded(2))
    probability = sampler.log_q(asked, CATALOGUE.expand(4, -1)).double().exp().numpy()
    for items, expected in zip(sample.items.numpy(), draws * probability, strict=True):
        observed = np.bincount(items, minlength=int(CATALOGUE.max()) + 1)[CATALOGUE.numpy()]
        require(observed.sum() == draws, "nothing outside the catalogue is ever drawn")
        # The statistic needs expectations that are not tiny: the rarest items count as one.
        order = expected.argsort()
        rare = order[: max(1, int((expected[order].cumsum() < 10).sum()) + 1)]
        common = np.setdiff1d(order, rare)
        observed = np.append(observed[common], observed[rare].sum())
        expected = np.append(expected[common], expected[rare].sum())
        p = stats.chisquare(observed, draws * expected / expected.sum()).pvalue
        require(p > 1e-6, f"draws follow exp(log_q): {draws:,} draws have a chi-square p-value of {p:.1e}")


def log_probabilities(sampler: Any) -> None:
    """log_q is normalised over the catalogue, and a sample carries the same numbers."""
    asked = queries(4)
    whole = sampler.log_q(asked, CATALOGUE.expand(4, -1)).double().exp().sum(1)
    require_close(whole, torch.ones_like(whole), "exp(log_q) sums to 1 over the catalogue", rtol=1e-5, atol=0)
    sample = sampler.sample(asked, 50, seeded(3))
    promise = "a sample carries the log_q of its items"
    require_close(sample.log_q, sampler.log_q(asked, sample.items), promise, rtol=1.3e-6, atol=1e-5)


def shapes(sampler: Any) -> None:
    """Item rows, int64, and their log-probabilities, float32, without gradient."""
    for count, draws in ((1, 1), (5, 7), (0, 3), (2, 0)):
        asked = queries(count).requires_grad_()
        sample = sampler.sample(asked, draws, seeded(0))
        require(sample.items.shape == sample.log_q.shape == (count, draws), f"a sample is [{count}, {draws}]")
        require(sample.items.dtype == torch.int64, "drawn item rows are int64")
        log_q = sampler.log_q(asked, sample.items)
        require(log_q.shape == (count, draws), f"log_q of items [{count}, {draws}] has that shape")
        for logs in (sample.log_q, log_q):
            require(logs.dtype == torch.float32, f"log_q is float32, not {logs.dtype}")
            require(not logs.requires_grad, "log_q carries no gradient")


def only_the_catalogue_is_drawn(sampler: Any) -> None:
    """Never padding, the unknown row, or an item without train events."""
    items = sampler.sample(queries(10), 5_000, seeded(5)).items
    strange = sorted(set(items.unique().tolist()) - set(CATALOGUE.tolist()))
    require(not strange, f"only rows of the catalogue are drawn, but so were {strange[:5]}")


def minus_infinity_outside_the_catalogue(sampler: Any) -> None:
    """And finite inside: an item that cannot be drawn has no correction."""
    rows = torch.arange(0, 5_000)
    inside = torch.isin(rows, CATALOGUE)
    log_q = sampler.log_q(queries(2), rows.expand(2, -1))
    require(log_q[:, ~inside].eq(-torch.inf).all(), "log_q is -inf outside the catalogue, also of padding and unknown")
    require(log_q[:, inside].isfinite().all(), "log_q is finite for every item of the catalogue: each can be drawn")


def the_generator_decides(sampler: Any) -> None:
    """All randomness comes from the generator that is given."""
    first, again = (sampler.sample(queries(4), 30, seeded(9)).items for _ in range(2))
    require(torch.equal(first, again), "the same generator gives the same draws")
    before = torch.get_rng_state()
    sampler.sample(queries(4), 30, seeded(9))
    require(torch.equal(torch.get_rng_state(), before), "draws come from the given generator, not from torch's own")


def draws_of_a_query_are_independent(sampler: Any) -> None:
    """With replacement: a pair of draws agrees as often as independent ones do."""
    items = sampler.sample(queries(1).expand(20_000, -1), 2, seeded(11)).items
    agree = float((items[:, 0] == items[:, 1]).double().mean())
    expected = float((sampler.log_q(queries(1), CATALOGUE[None]).double().exp() ** 2).sum())
    deviation = (expected * (1 - expected) / 20_000) ** 0.5
    promise = f"draws are independent, with replacement: two agree in {agree:.4f} of cases, not in {expected:.4f}"
    require(abs(agree - expected) < 5 * deviation, promise)


def tensors_are_buffers(sampler: Any) -> None:
    """So that they move with ``.to(device)``; none is a parameter, which an optimiser would train."""
    loose = [name for part in sampler.modules() for name, value in vars(part).items() if isinstance(value, Tensor)]
    require(not loose, f"tensors are buffers, but not {', '.join(loose)}: use register_buffer")
    require(not list(sampler.parameters()), "a sampler has no parameters: an optimiser would train them")


def a_refresh_keeps_it_right(sampler: Any) -> None:
    """After new vectors draws and log_q still agree."""
    sampler.refresh(VECTORS.flip(0))
    if sampler.normalised:
        log_probabilities(sampler)
        frequencies(sampler)


def vectors_are_copied(sampler: Any) -> None:
    """Training goes on after a refresh: the proposal is what it was at the refresh, in draws and in log_q."""
    vectors = VECTORS.clone().requires_grad_()
    sampler.refresh(vectors)
    before = sampler.sample(queries(4), 30, seeded(13))
    with torch.no_grad():
        vectors.neg_()
    after = sampler.sample(queries(4), 30, seeded(13))
    same = torch.equal(before.items, after.items) and torch.equal(before.log_q, after.log_q)
    require(same, "refresh copies the item vectors: training changes them in place afterwards")
    if sampler.normalised:
        log_probabilities(sampler)
        frequencies(sampler)


def a_biased_one_says_so(sampler: Any) -> None:
    """``normalised = False`` goes with log_q = 0."""
    sample = sampler.sample(queries(3), 30, seeded(0))
    promise = "with normalised = False log_q is 0: there is no probability to correct by"
    require(sample.log_q.eq(0).all(), promise)
    require(sampler.log_q(queries(3), CATALOGUE.expand(3, -1)).eq(0).all(), promise)


CHECKS: tuple[Callable[[Any], None], ...] = (
    is_a_sampler,
    shapes,
    only_the_catalogue_is_drawn,
    minus_infinity_outside_the_catalogue,
    the_generator_decides,
    tensors_are_buffers,
    a_refresh_keeps_it_right,
    vectors_are_copied,
)
NORMALISED_CHECKS: tuple[Callable[[Any], None], ...] = (
    frequencies,
    log_probabilities,
    draws_of_a_query_are_independent,
)


def state_makes_a_fresh_sampler_go_on(make: MakeSampler) -> None:
    """Resuming between two refreshes: the same draws from ``state_dict()`` alone."""
    first, fresh = small_sampler(make), make(CATALOGUE, COUNTS)
    fresh.refresh(VECTORS.flip(0))
    fresh.observe(CATALOGUE[:7])
    cast(nn.Module, fresh).load_state_dict(cast(nn.Module, first).state_dict())
    drawn, again = (each.sample(queries(6), 40, seeded(12)) for each in (first, fresh))
    same = torch.equal(drawn.items, again.items) and torch.equal(drawn.log_q, again.log_q)
    require(same, "a new sampler with the same state_dict draws the same: what refresh changes is in buffers")


def one_item(make: MakeSampler) -> None:
    """A catalogue of one: it is drawn, with certainty."""
    sampler = make(torch.tensor([7]), torch.tensor([3]))
    sampler.refresh(torch.randn(1, SIZE, generator=seeded(0)))
    sample = sampler.sample(queries(3), 5, seeded(0))
    require(sample.items.eq(7).all(), "of a catalogue of one item that item is drawn")
    require_close(sample.log_q, torch.zeros(3, 5), "it is drawn with certainty: log_q = 0", rtol=0, atol=1e-5)


def check_sampler(make: MakeSampler) -> None:
    """All checks, each on a new instance.

    Args:
        make: as ``corral.TwoStage(..., sampler=...)`` takes it; query and item vectors have 6 numbers here.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    for check in CHECKS:
        check(small_sampler(make))
    for check in NORMALISED_CHECKS if small_sampler(make).normalised else (a_biased_one_says_so,):
        check(small_sampler(make))
    state_makes_a_fresh_sampler_go_on(make)
    one_item(make)
