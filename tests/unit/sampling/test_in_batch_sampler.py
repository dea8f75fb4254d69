from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from corral.sampling.in_batch import InBatchSampler

CATALOGUE = torch.tensor([9, 2, 5, 4])


def share(sampler: InBatchSampler) -> list[float]:
    """Q of each item of the catalogue."""
    return sampler.log_q(torch.zeros(1, 3), CATALOGUE[None])[0].exp().tolist()


def test_uniform_before_the_first_batch() -> None:
    assert share(InBatchSampler(CATALOGUE)) == pytest.approx([0.25] * 4)


def test_share_of_the_events_so_far() -> None:
    sampler = InBatchSampler(CATALOGUE, window=100, uniform_share=0.2)
    sampler.observe(torch.tensor([9, 9, 5]))
    sampler.observe(torch.tensor([[2], [9]]))
    assert share(sampler) == pytest.approx([0.8 * 3 / 5 + 0.05, 0.8 / 5 + 0.05, 0.8 / 5 + 0.05, 0.05])


def test_old_events_are_forgotten() -> None:
    """The window holds the last four, through uneven batches and one larger than itself."""
    sampler = InBatchSampler(CATALOGUE, window=4, uniform_share=0.2)
    stream: list[int] = []
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 0, 3, 4, 1, 9, 4, 5, 2):
        batch = CATALOGUE[torch.randint(4, (size,), generator=generator)]
        sampler.observe(batch)
        stream += batch.tolist()
        last = stream[-4:]
        expected = [0.8 * last.count(item) / len(last) + 0.05 for item in CATALOGUE.tolist()]
        assert share(sampler) == pytest.approx(expected)
        assert int(sampler.counts.sum()) == len(last)


def test_rows_outside_the_catalogue_do_not_count() -> None:
    sampler = InBatchSampler(CATALOGUE, window=10, uniform_share=0.2)
    sampler.observe(torch.tensor([0, 1, 3, 7, 99]))
    assert share(sampler) == pytest.approx([0.25] * 4)
    sampler.observe(torch.tensor([0, 2, 99]))
    assert share(sampler) == pytest.approx([0.05, 0.85, 0.05, 0.05])


def test_with_a_window_of_one_batch_it_draws_that_batch() -> None:
    sampler = InBatchSampler(CATALOGUE, window=3, uniform_share=1e-9)
    sampler.observe(torch.tensor([4, 4, 4]))
    sampler.observe(torch.tensor([9, 5, 5]))
    sample = sampler.sample(torch.zeros(10, 3), 100, torch.Generator().manual_seed(0))
    assert set(sample.items.unique().tolist()) == {5, 9}
    expected = torch.where(sample.items == 5, math.log(2 / 3), math.log(1 / 3))
    torch.testing.assert_close(sample.log_q, expected)


def test_share_of_events_is_learned_from_a_stream() -> None:
    """What the log-Q correction of in-batch negatives asks for."""
    popularity = torch.tensor([0.5, 0.3, 0.15, 0.05])
    sampler = InBatchSampler(CATALOGUE, window=20_000)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        sampler.observe(CATALOGUE[popularity.multinomial(256, replacement=True, generator=generator)])
    assert share(sampler) == pytest.approx((0.99 * popularity + 0.0025).tolist(), abs=0.01)


def test_an_update_leaves_its_argument_alone() -> None:
    sampler = InBatchSampler(CATALOGUE, window=2)
    batch: Tensor = torch.tensor([9, 5, 5])
    sampler.observe(batch)
    assert batch.tolist() == [9, 5, 5]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="window"):
        InBatchSampler(CATALOGUE, window=0)
    for wrong in (0.0, -0.1, 1.1):
        with pytest.raises(ValueError, match="uniform_share"):
            InBatchSampler(CATALOGUE, uniform_share=wrong)
