"""UserHistories and pair_blocks: array arithmetic against plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_system import event_log

from corral.serving.histories import UserHistories
from corral.serving.pair_blocks import MOST_ITEMS, pair_blocks

EVENTS = [(2, 5, 1), (2, 6, 2), (2, 7, 9), (4, 5, 3), (5, 8, 1), (5, 8, 4), (5, 9, 5), (5, 3, 6)]


def test_gather() -> None:
    histories = UserHistories.of(event_log(EVENTS, 7))
    users = np.array([2, 1, 5, 4, 6, 0])
    assert histories.lengths(users).tolist() == [3, 0, 4, 1, 0, 0]
    assert histories.gather(users, 2).tolist() == [[6, 7], [0, 0], [9, 3], [0, 5], [0, 0], [0, 0]]
    assert histories.gather(users, None)[2].tolist() == [8, 8, 9, 3]
    assert histories.gather(users[:1], 5).tolist() == [[0, 0, 5, 6, 7]]
    assert histories.gather(users[:0], 5).shape == (0, 5)
    assert histories.as_of == 9


def test_export_of_some_events() -> None:
    log = event_log(EVENTS, 7)
    histories = UserHistories.of(log, keep=log.time < 5)
    assert histories.gather(np.array([2, 4, 5]), None).tolist() == [[5, 6], [0, 5], [8, 8]]
    assert histories.as_of == 4
    last = UserHistories.of(log, keep=log.time < 6, last=2)
    assert last.gather(np.array([2, 4, 5]), None).tolist() == [[5, 6], [0, 5], [8, 9]]
    assert UserHistories.of(event_log([], 3)).gather(np.array([2]), 3).tolist() == [[0, 0, 0]]
    with pytest.raises(ValueError, match="keep"):
        UserHistories.of(log, keep=np.ones(3, dtype=bool))
    with pytest.raises(ValueError, match="last"):
        UserHistories.of(log, last=0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 6), max_size=60), st.integers(1, 5))
def test_pair_blocks_cover_every_pair_once(keys: list[int], batch_size: int) -> None:
    items = np.arange(len(keys)) + 10
    answers = np.zeros((len(keys), 2), dtype=np.int64)
    times = np.zeros(len(keys), dtype=np.int64)
    for block in pair_blocks(np.array(keys, dtype=np.int64), items, batch_size):
        assert len(block.queries) <= batch_size
        answers[block.pairs, 0] = block.queries[block.owner]
        answers[block.pairs, 1] = block.items[block.owner, block.column]
        times[block.pairs] += 1
        assert (block.items > 0).sum() == len(block.pairs)
    assert (times == 1).all()
    assert answers[:, 0].tolist() == keys
    assert answers[:, 1].tolist() == items.tolist()


def test_a_user_with_very_many_items_becomes_several_queries() -> None:
    blocks = list(pair_blocks(np.full(3 * MOST_ITEMS + 1, 7), np.ones(3 * MOST_ITEMS + 1, dtype=np.int64), 64))
    assert max(block.items.shape[1] for block in blocks) == MOST_ITEMS
    assert sum(len(block.pairs) for block in blocks) == 3 * MOST_ITEMS + 1
