"""What evaluation asks, against brute force: baskets, repeats, exclusions, histories as of the event."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_logs import (
    RULES,
    Event,
    event_lists,
    may_see,
    padded,
    plain_history,
    plain_rows,
    small_dataset,
    split_of,
)

from corral.data.dataset import Dataset
from corral.data.history import HistoryRule
from corral.data.split import Part, Split
from corral.data.targets import TargetBatch, targets

Asked = tuple[int, int, list[int], list[int], set[int]]  # user, time, items, history, excluded


def reference(dataset: Dataset, split: Split, part: Part, length: int, repeats: bool) -> tuple[list[Asked], int]:
    """Queries in the order of the log, and the number of dropped repeats."""
    rows, dropped = plain_rows(dataset, split), 0
    baskets: dict[tuple[int, int], list[int]] = {}
    for event, row in enumerate(rows):
        if row.part == part:
            key = (row.user, row.time if split.history_rule is HistoryRule.STRICT else event)
            baskets.setdefault(key, []).append(event)
    asked = []
    for events in baskets.values():
        history = plain_history(rows, split, events[0])
        items = [rows[event].item for event in events]
        had = set(history)
        if split.train_history_only:  # by splits that are not by time, later train events count as well
            had |= {row.item for row in rows if row.user == rows[events[0]].user and row.part == Part.TRAIN}
        if not repeats:
            dropped += sum(item in had for item in items)
            items = [item for item in items if item not in had]
        if items:
            row = rows[events[0]]
            asked.append(
                (
                    row.user,
                    row.time,
                    sorted(set(items)),
                    padded(history, length),
                    set() if repeats else had,
                )
            )
    return asked, dropped


def read(batch: TargetBatch) -> list[Asked]:
    query = batch.query
    return [
        (
            int(query.user[b]),
            int(query.time[b]),
            batch.item[batch.owner == b].tolist(),
            query.history[b].tolist(),
            set(batch.exclude[b].tolist()) - {0},
        )
        for b in range(len(query))
    ]


@pytest.mark.parametrize("rule", RULES)
@given(events=event_lists(), length=st.integers(0, 10), repeats=st.booleans(), size=st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_targets(rule: str, events: list[Event], length: int, repeats: bool, size: int) -> None:
    dataset = small_dataset(events)
    split = split_of(dataset, rule)
    if split is None:
        return
    for part in (Part.VALID, Part.TEST):
        asked = targets(dataset, split, part, history_length=length, repeats=repeats)
        expected, dropped = reference(dataset, split, part, length, repeats)
        assert [query for batch in asked.batches(size) for query in read(batch)] == expected
        assert len(asked) == len(expected)
        assert asked.dropped_repeats == dropped
        # What users had is told whatever the length of the queries' histories.
        longer, _ = reference(dataset, split, part, 100, repeats)
        had = [[item for item in row if item] for batch in asked.batches(size) for row in batch.had.tolist()]
        assert had == [[item for item in query[3] if item] for query in longer]
        assert asked.offsets.tolist() == np.cumsum([0, *(len(query[2]) for query in expected)]).tolist()


@given(events=event_lists(min_size=10))
@settings(max_examples=30, deadline=None)
def test_histories_hold_earlier_events_only(events: list[Event]) -> None:
    """As of validation and test events too: nothing at or after their time, by time and not by code path."""
    dataset = small_dataset(events)
    split = split_of(dataset, "time-cut")
    if split is None:
        return
    rows = plain_rows(dataset, split)
    for part in (Part.VALID, Part.TEST):
        asked = targets(dataset, split, part, history_length=50, repeats=True)
        for batch in asked.batches(8):
            for user, time, history in zip(
                batch.query.user.tolist(),
                batch.query.time.tolist(),
                batch.query.history.tolist(),
                strict=True,
            ):
                earlier = [row.item for row in rows if row.user == user and row.time < time]
                assert history == padded(earlier, 50)


def test_event_is_the_first_row_of_the_basket() -> None:
    dataset = small_dataset([(0, 1, 1, 0), (0, 2, 5, 0), (0, 3, 5, 0), (0, 4, 9, 0)])
    split = split_of(dataset, "time-cut")
    assert split is not None
    asked = targets(dataset, split, Part.VALID, history_length=3)
    assert asked.event.tolist() == [1]
    assert asked.time.tolist() == [5]
    assert asked.items.tolist() == dataset.items.rows([2, 3]).tolist()
    assert not may_see(plain_rows(dataset, split), split, 1, 2)


def test_an_empty_part() -> None:
    dataset = small_dataset([(user, user, user, 0) for user in range(5)])
    split = split_of(dataset, "leave-last-two-out")  # no user has three events
    assert split is not None
    asked = targets(dataset, split, Part.TEST, history_length=4)
    assert len(asked) == 0
    assert list(asked.batches(10)) == []
    assert len(asked.sample(3, seed=0)) == 0
    empty = asked.batch(np.arange(0))
    assert empty.query.history.shape == (0, 4)
    assert len(empty.item) == 0


def test_what_a_model_learned_is_left_out_of_lists_wherever_it_stands() -> None:
    """Trained on event 3, a model that gives item 3 back at time 2 gives what it was told."""
    dataset = small_dataset([(0, 1, 1, 0), (0, 2, 2, 2), (0, 3, 3, 0), (0, 3, 4, 2)])
    split = split_of(dataset, "given")
    assert split is not None
    asked = targets(dataset, split, Part.TEST, history_length=4)
    assert dataset.items.external(asked.items) == [2]
    batch = next(asked.batches(9))
    assert [dataset.items.external(row.numpy()) for row in batch.exclude] == [[1, 3]]
    assert [dataset.items.external(row[row > 0].numpy()) for row in batch.query.history] == [[1]]


def test_a_given_split_drops_only_what_lists_leave_out() -> None:
    """An item of the validation part is not in the histories of a given split, so it may be recommended."""
    dataset = small_dataset([(0, 1, 1, 0), (0, 2, 2, 1), (0, 1, 3, 2), (0, 2, 4, 2), (0, 3, 5, 2)])
    split = split_of(dataset, "given")
    assert split is not None
    asked = targets(dataset, split, Part.TEST, history_length=4)
    assert dataset.items.external(asked.items) == [2, 3]
    assert asked.dropped_repeats == 1
    assert [dataset.items.external(row.numpy()) for row in next(asked.batches(9)).exclude] == [[1], [1]]


@given(events=event_lists(min_size=10), queries=st.integers(0, 12), seed=st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_a_sample_is_some_of_the_queries(events: list[Event], queries: int, seed: int) -> None:
    dataset = small_dataset(events)
    split = split_of(dataset, "given")
    assert split is not None
    whole = targets(dataset, split, Part.TEST, history_length=5, repeats=True)
    some = whole.sample(queries, seed)
    assert len(some) == min(queries, len(whole))
    known = {
        int(event): query for event, query in zip(whole.event, read(whole.batch(np.arange(len(whole)))), strict=True)
    }
    found = read(some.batch(np.arange(len(some))))
    assert found == [known[int(event)] for event in some.event]
    again = whole.sample(queries, seed)
    assert again.event.tolist() == some.event.tolist()


@pytest.mark.parametrize("rule", RULES)
@given(events=event_lists(), rows_at_once=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_some_users_at_a_time(rule: str, events: list[Event], rows_at_once: int) -> None:
    """Whatever the number of events looked at together, the targets are the same."""
    dataset = small_dataset(events)
    split = split_of(dataset, rule)
    if split is None:
        return
    whole = targets(dataset, split, Part.TEST, history_length=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("corral.data.targets.CHUNK_ROWS", rows_at_once)
        pieces = targets(dataset, split, Part.TEST, history_length=3)
    assert pieces.dropped_repeats == whole.dropped_repeats
    for name in ("user", "event", "time", "end", "offsets", "items"):
        assert getattr(pieces, name).tolist() == getattr(whole, name).tolist()
