"""Histories against their definition, on small logs full of ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_logs import RULES, Event, event_lists, padded, plain_history, plain_rows, small_dataset, split_of

from corral.data.history import HistoryIndex, HistoryRule


@pytest.mark.parametrize("rule", RULES)
@given(events=event_lists(), length=st.integers(0, 45))
@settings(max_examples=40, deadline=None)
def test_history_of_every_event(rule: str, events: list[Event], length: int) -> None:
    dataset = small_dataset(events)
    split = split_of(dataset, rule)
    if split is None:
        return
    rows, index = plain_rows(dataset, split), split.histories(dataset)
    every = np.arange(len(rows))
    found = index.gather(dataset.events.user, index.ends(every), length)
    assert found.dtype == torch.int64
    assert found.shape == (len(rows), length)
    assert found.tolist() == [padded(plain_history(rows, split, e), length) for e in every]


def test_strict_sees_nothing_of_its_own_basket_and_order_does() -> None:
    dataset = small_dataset([(0, item, time, 0) for item, time in ((5, 1), (6, 2), (7, 2), (8, 2))])
    rows = dataset.items.rows([5, 6, 7]).tolist()
    found = {}
    for rule in HistoryRule:
        index = HistoryIndex.of(dataset.events, rule)
        found[rule] = index.gather(np.array([2]), index.ends(np.array([3])), 4).tolist()[0]
    assert found[HistoryRule.STRICT] == [0, 0, 0, rows[0]]
    assert found[HistoryRule.ORDER] == [0, *rows]


def test_kept_events_only() -> None:
    dataset = small_dataset([(0, item, item, 0) for item in range(6)])
    keep = np.array([True, False, True, False, False, True])
    index = HistoryIndex.of(dataset.events, HistoryRule.STRICT, keep)
    found = index.gather(np.full(6, 2), index.ends(np.arange(6)), 3)
    assert found.tolist() == [[0, 0, 0], [0, 0, 2], [0, 0, 2], [0, 2, 4], [0, 2, 4], [0, 2, 4]]


def test_nothing_kept() -> None:
    dataset = small_dataset([(0, 1, 1, 0), (0, 2, 2, 0)])
    index = HistoryIndex.of(dataset.events, HistoryRule.ORDER, np.zeros(2, dtype=bool))
    assert index.gather(np.array([2, 2]), index.ends(np.arange(2)), 3).tolist() == [[0, 0, 0]] * 2


def test_users_without_events_have_no_history() -> None:
    """Rows 0 and 1, whatever lies around them in the log."""
    dataset = small_dataset([(0, 1, 1, 0), (1, 2, 2, 0)])
    index = HistoryIndex.of(dataset.events, HistoryRule.STRICT)
    users = np.array([0, 1])
    assert index.gather(users, index.offsets[users + 1], 2).tolist() == [[0, 0], [0, 0]]
