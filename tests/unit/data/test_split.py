"""Splits against their definitions, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given as hypothesis_given
from hypothesis import settings
from scipy import stats
from small_logs import RULES, Event, event_lists, plain_rows, small_dataset, split_of

from corral.data.history import HistoryRule
from corral.data.split import Part, given, leave_last_two_out, random_split, time_cut


def log_of(times: list[int], users: list[int] | None = None) -> list[Event]:
    return [(0 if users is None else users[at], at, time, 0) for at, time in enumerate(times)]


def test_time_cut_by_fraction() -> None:
    dataset = small_dataset(log_of(list(range(100))))
    split = time_cut(dataset, 0.2, 0.1)
    assert split.part.tolist() == [0] * 70 + [1] * 20 + [2] * 10
    assert split.history_rule is HistoryRule.STRICT
    assert split.facts["valid_from"] == 70
    assert split.facts["test_from"] == 90
    assert not split.warning


@hypothesis_given(events=event_lists(min_size=5))
@settings(max_examples=60, deadline=None)
def test_time_cut_never_parts_equal_times(events: list[Event]) -> None:
    dataset = small_dataset(events)
    try:
        split = time_cut(dataset, 0.3, 0.3)
    except ValueError:
        return  # so many ties that a part would be empty
    time = dataset.events.time
    latest = [time[split.rows(part)].max() for part in Part]
    earliest = [time[split.rows(part)].min() for part in Part]
    assert latest[0] < earliest[1] == split.facts["valid_from"]
    assert latest[1] < earliest[2] == split.facts["test_from"]


def test_time_cut_at_given_times() -> None:
    split = time_cut(small_dataset(log_of([3, 1, 2, 5, 5, 9])), valid_from=3, test_from=5)
    assert split.part.tolist() == [0, 0, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"valid_fraction": 0.5, "test_fraction": 0.5}, "sum to < 1"),
        ({"valid_fraction": 0.0}, "must be positive"),
        ({"valid_from": 8, "test_from": 4}, "validation from 8 must begin before the test from 4"),
        ({"valid_from": 4, "test_from": 4}, "must begin before"),
        ({"valid_from": 0, "test_from": 4}, "leaves \\[0, 4, 6\\] events"),
        ({"valid_from": 4, "test_from": 40}, "leaves \\[4, 6, 0\\] events"),
        ({"valid_fraction": 1e-18, "test_fraction": 1e-18}, "must begin before"),
    ],
)
def test_time_cut_refuses(keywords: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        time_cut(small_dataset(log_of(list(range(10)))), **keywords)  # type: ignore[arg-type]


def test_time_cut_needs_times() -> None:
    with pytest.raises(ValueError, match="leave-last-two-out"):
        time_cut(small_dataset(log_of([1, 2, 3]), time_unit="order"))


@hypothesis_given(events=event_lists())
@settings(max_examples=40, deadline=None)
def test_leave_last_two_out(events: list[Event]) -> None:
    dataset = small_dataset(events)
    split = leave_last_two_out(dataset)
    offsets = dataset.events.offsets
    for user in range(dataset.n_users):
        parts = split.part[offsets[user] : offsets[user + 1]].tolist()
        n = len(parts)
        assert parts == ([0] * n if n < 3 else [0] * (n - 2) + [1, 2])
    assert split.history_rule is HistoryRule.ORDER
    assert "optimistic" in split.warning


def test_random_split() -> None:
    events = log_of([9, 9, *range(98)], [at % 7 for at in range(100)])
    dataset = small_dataset(events, shown=events[:40])
    split = random_split(dataset, 0.1, 0.2, seed=5)
    assert np.bincount(split.part).tolist() == [70, 10, 20]
    assert split.train_history_only
    assert split.history_rule is HistoryRule.STRICT
    assert "optimistic" in split.warning
    assert split.facts["split_seed"] == 5
    assert split.impression_part is not None
    assert np.bincount(split.impression_part).tolist() == [28, 4, 8]
    assert split.part[:40].tolist() != split.impression_part.tolist(), "lots of their own"
    again, other = (random_split(dataset, 0.1, 0.2, seed=seed) for seed in (5, 6))
    assert split.part.tolist() == again.part.tolist() != other.part.tolist()
    assert split.impression_part.tolist() == again.impression_part.tolist()  # type: ignore[union-attr]
    ordered = random_split(small_dataset(events, time_unit="order"))
    assert ordered.history_rule is HistoryRule.ORDER
    assert ordered.impression_part is None


def test_random_split_deals_every_event_alike() -> None:
    """Over 400 seeds an event of 20 is in the test one time in five, whatever its place: chi-square."""
    dataset = small_dataset(log_of(list(range(20))))
    tested = sum((random_split(dataset, 0.1, 0.2, seed=seed).part == Part.TEST).astype(int) for seed in range(400))
    assert stats.chisquare(tested).pvalue > 0.001


@pytest.mark.parametrize(
    ("n", "valid", "message"), [(20, 0.9, "sum to < 1"), (20, 0.0, "positive"), (4, 0.1, "leaves")]
)
def test_random_split_refuses(n: int, valid: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_split(small_dataset(log_of(list(range(n)))), valid, 0.2)


def test_given_split() -> None:
    dataset = small_dataset([(0, 1, 5, 2), (0, 2, 4, 0), (1, 3, 1, 1), (1, 3, 2, 0)])
    split = given(dataset)
    assert split.part.tolist() == [0, 2, 1, 0]
    assert split.train_history_only
    assert split.history_rule is HistoryRule.STRICT
    assert given(small_dataset([(0, 1, 5, 0)], time_unit="order")).history_rule is HistoryRule.ORDER
    with pytest.raises(ValueError, match="no column `part`"):
        given(small_dataset([(0, 1, 5, 0)], parts=False))


@pytest.mark.parametrize("rule", RULES)
@hypothesis_given(events=event_lists())
@settings(max_examples=30, deadline=None)
def test_counts_and_facts(rule: str, events: list[Event]) -> None:
    dataset = small_dataset(events)
    split = split_of(dataset, rule)
    if split is None:
        return
    rows = plain_rows(dataset, split)
    train = [row for row in rows if row.part == Part.TRAIN]
    items = [row.item for row in train]
    assert split.train_counts(dataset).tolist() == [items.count(item) for item in range(dataset.n_items)]
    assert split.catalogue(dataset).tolist() == sorted(set(items))
    assert split.facts["train_events"] == len(train)
    users = {row.user for row in train}
    for part in (Part.VALID, Part.TEST):
        mine, name = [row for row in rows if row.part == part], part.name.lower()
        assert split.facts[f"{name}_events"] == len(mine)
        assert split.facts[f"{name}_cold_user_events"] == sum(row.user not in users for row in mine)
        assert split.facts[f"{name}_cold_item_events"] == sum(row.item not in items for row in mine)
    assert np.array_equal(np.sort(np.concatenate([split.rows(part) for part in Part])), np.arange(len(rows)))
