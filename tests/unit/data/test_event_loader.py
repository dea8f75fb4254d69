"""Single train events with their histories, against brute force."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_logs import RULES, Event, event_lists, padded, plain_history, plain_rows, small_dataset, split_of

from corral.data.batches import Batch
from corral.data.event_loader import EventLoader
from corral.data.examples import Examples
from corral.data.split import Part


def plain(batch: Batch) -> list[object]:
    query = batch.query
    tensors = (query.user, query.event, query.time, query.history, batch.item, batch.label)
    return [tensor.tolist() for tensor in tensors]


@pytest.mark.parametrize("rule", RULES)
@given(
    events=event_lists(),
    length=st.integers(0, 12),
    batch_size=st.integers(1, 9),
    at_most=st.integers(0, 4),
    epoch=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_batches(rule: str, events: list[Event], length: int, batch_size: int, at_most: int, epoch: int) -> None:
    dataset = small_dataset(events)
    split = split_of(dataset, rule)
    if split is None:
        return
    rows = plain_rows(dataset, split)
    label = np.arange(len(rows), dtype=np.float32) % 2

    def make() -> EventLoader:
        return EventLoader(
            Examples.of(dataset, split, Part.TRAIN, label=label),
            history_length=length,
            batch_size=batch_size,
            seed=5,
            max_per_user=at_most,
        )

    batches = list(make().epoch(epoch))
    assert len(batches) == make().batches_per_epoch()
    assert all(len(batch) == batch_size for batch in batches[:-1])
    used = []
    for batch in batches:
        for b in range(len(batch)):
            event = int(batch.query.event[b])
            used.append(event)
            row = rows[event]
            assert row.part == Part.TRAIN
            assert (int(batch.query.user[b]), int(batch.item[b]), int(batch.query.time[b])) == (
                row.user,
                row.item,
                row.time,
            )
            assert batch.query.history[b].tolist() == padded(plain_history(rows, split, event), length)
            assert float(batch.label[b]) == label[event]
    train = split.rows(Part.TRAIN).tolist()
    assert len(set(used)) == len(used)
    if at_most:
        wanted = Counter({user: min(n, at_most) for user, n in Counter(rows[e].user for e in train).items()})
        assert Counter(rows[event].user for event in used) == wanted
    else:
        assert sorted(used) == train
    for first in range(len(batches) + 1):
        assert [plain(b) for b in make().epoch(epoch, first)] == [plain(b) for b in batches[first:]]


def test_order_and_choice_change_with_epoch_and_seed() -> None:
    dataset = small_dataset([(user, at, at, 0) for user in range(3) for at in range(30)])
    split = split_of(dataset, "given")
    assert split is not None

    def chosen(seed: int, epoch: int, at_most: int = 0) -> list[int]:
        loader = EventLoader(
            Examples.of(dataset, split, Part.TRAIN), history_length=2, batch_size=7, seed=seed, max_per_user=at_most
        )
        return torch.cat([batch.query.event for batch in loader.epoch(epoch)]).tolist()

    assert chosen(0, 0) == chosen(0, 0)
    assert chosen(0, 0) != chosen(0, 1)
    assert chosen(0, 0) != chosen(1, 0)
    assert set(chosen(0, 0, 4)) != set(chosen(0, 1, 4))
    assert set().union(*(chosen(0, epoch, 4) for epoch in range(60))) == set(range(90))


def test_every_event_is_a_click_without_labels() -> None:
    dataset = small_dataset([(0, 1, 1, 0), (0, 2, 2, 0)])
    split = split_of(dataset, "given")
    assert split is not None
    (batch,) = EventLoader(Examples.of(dataset, split, Part.TRAIN), history_length=3, batch_size=9, seed=0).epoch(0)
    assert batch.label.tolist() == [1.0, 1.0]
    assert batch.label.dtype == torch.float32


@pytest.mark.parametrize("rule", RULES)
@given(events=event_lists(), shown=event_lists(), length=st.integers(0, 12))
@settings(max_examples=40, deadline=None)
def test_impressions(rule: str, events: list[Event], shown: list[Event], length: int) -> None:
    """Label 0, a history of earlier clicks alone, and a part each: given, by time, or that of the next click."""
    dataset = small_dataset(events, shown=shown)
    split = split_of(dataset, rule)
    if split is None:
        return
    clicks = plain_rows(dataset, split)
    assert dataset.impressions is not None
    log, total = dataset.impressions, 0
    for part in Part:
        expected = []
        for at in range(len(log)):
            user, item, time = int(log.user[at]), int(log.item[at]), int(log.time[at])
            mine = [click for click in clicks if click.user == user]
            following = [click.part for click in mine if click.time >= time] or [click.part for click in mine[-1:]]
            if rule == "given":
                assert log.part is not None
                own = int(log.part[at])
            elif rule == "random":
                assert split.impression_part is not None
                own = int(split.impression_part[at])
            elif rule == "time-cut":
                own = int(time >= split.facts["valid_from"]) + int(time >= split.facts["test_from"])  # type: ignore[operator]
            else:
                own = following[0] if following else Part.TRAIN
            if own == part:
                only = split.train_history_only
                earlier = [c.item for c in mine if c.time < time and (not only or c.part == Part.TRAIN)]
                expected.append((user, item, time, -1, 0.0, padded(earlier, length)))
        examples = Examples.of(dataset, split, part, impressions=True)
        clicked = Examples.of(dataset, split, part)
        assert len(examples) == len(clicked) + len(expected)
        total += len(expected)
        batch = examples.batch(np.arange(len(clicked), len(examples)), length)
        columns = (batch.query.user, batch.item, batch.query.time, batch.query.event, batch.label, batch.query.history)
        assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected
        before, after = (made.batch(np.arange(len(clicked)), length) for made in (clicked, examples))
        assert plain(before) == plain(after)
    assert total == len(log)
