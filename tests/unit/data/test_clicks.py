"""Clicks: the same batches as Examples of the same events."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_logs import RULES, Event, event_lists, small_dataset, split_of

from corral.data.batches import Batch
from corral.data.clicks import Clicks
from corral.data.event_loader import EventLoader
from corral.data.examples import Examples
from corral.data.split import Part


def tensors(batch: Batch) -> list[torch.Tensor]:
    query = batch.query
    return [query.user, query.event, query.history, query.time, batch.item, batch.label]


@pytest.mark.parametrize("rule", RULES)
@given(events=event_lists(), length=st.integers(0, 5), at_most=st.integers(0, 3), part=st.sampled_from(list(Part)))
@settings(max_examples=40, deadline=None)
def test_the_same_batches(rule: str, events: list[Event], length: int, at_most: int, part: Part) -> None:
    dataset = small_dataset(events)
    split = split_of(dataset, rule)
    if split is None:
        return
    loaders = [
        EventLoader(made, history_length=length, batch_size=4, seed=2, max_per_user=at_most)
        for made in (Clicks.of(dataset, split, part), Examples.of(dataset, split, part))
    ]
    assert loaders[0].batches_per_epoch() == loaders[1].batches_per_epoch()
    for one, other in zip(*(loader.epoch(1) for loader in loaders), strict=True):
        for left, right in zip(tensors(one), tensors(other), strict=True):
            assert left.dtype == right.dtype
            assert torch.equal(left, right)
    assert Counter(Clicks.of(dataset, split, part).user.tolist()) == Counter(
        Examples.of(dataset, split, part).user.tolist()
    )
