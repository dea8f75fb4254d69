"""TrainRows: what follows from offsets is what would be listed, in memory that does not grow with the events."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_logs import RULES, Event, event_lists, small_dataset, split_of

from corral.data import order_statistic
from corral.data.history import HistoryIndex
from corral.data.sequence_loader import SequenceLoader
from corral.data.split import Part, time_cut
from corral.data.train_rows import TrainRows


@pytest.mark.parametrize("rule", RULES)
@given(events=event_lists(max_size=60))
@settings(max_examples=60, deadline=None)
def test_rows_and_ends(rule: str, events: list[Event]) -> None:
    dataset = small_dataset(events)
    split = split_of(dataset, rule)
    if split is None:
        return
    rows = np.flatnonzero(split.part == Part.TRAIN)
    ends = HistoryIndex.of(dataset.events, split.history_rule, split.part == Part.TRAIN).ends(rows)
    train = TrainRows.of(dataset, split)
    if rule in ("time-cut", "leave-last-two-out"):
        assert train.listed is None
    assert len(train) == len(rows)
    assert train.start.tolist() == np.searchsorted(dataset.events.user[rows], np.arange(dataset.n_users + 1)).tolist()
    user = np.asarray(dataset.events.user[rows], dtype=np.int64)
    at = np.arange(len(rows))[:, None]
    found = train.rows(user, at)
    assert found[:, 0].tolist() == rows.tolist()
    assert train.ends(at, found)[:, 0].tolist() == ends.tolist()


@given(events=event_lists(min_size=5, max_size=60), epoch=st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_the_same_batches_as_from_a_list(events: list[Event], epoch: int) -> None:
    dataset = small_dataset(events)
    split = split_of(dataset, "time-cut")
    if split is None:
        return
    loader, listed = (SequenceLoader(dataset, split, length=4, batch_size=3, seed=1) for _ in range(2))
    rows = split.rows(Part.TRAIN)
    ends = HistoryIndex.of(dataset.events, split.history_rule, split.part == Part.TRAIN).ends(rows)
    assert loader._train.listed is None
    listed._train = replace(listed._train, listed=(rows, ends))
    for one, other in zip(loader.epoch(epoch), listed.epoch(epoch), strict=True):
        for name, tensor in vars(one).items():
            if tensor is not None:  # no weights
                assert torch.equal(tensor, getattr(other, name)), name


def test_memory_does_not_grow_with_the_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the events of as many users and windows: no more is kept, and a few bytes an event while it is made."""
    monkeypatch.setattr(order_statistic, "CHUNK_ROWS", 10_000)

    def kept_and_peak(each: int) -> tuple[int, int]:
        users = 2_000
        events = users * each
        data = small_dataset([(user, 1, 1, 0) for user in range(users)])
        log = replace(
            data.events,
            user=np.repeat(np.arange(2, users + 2, dtype=np.int32), each),
            item=np.full(events, 2, dtype=np.int32),
            time=np.tile(np.arange(each), users),
            ties=np.zeros(events, dtype=np.int32),
            offsets=np.concatenate([[0, 0], np.arange(users + 1) * each]),
            part=None,
        )
        data = replace(data, events=log)
        split = time_cut(data)
        tracemalloc.start()
        loader = SequenceLoader(data, split, length=each, batch_size=1, seed=0)
        next(iter(loader.epoch(0)))
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return kept, peak

    (few, peak_few), (many, peak_many) = kept_and_peak(20), kept_and_peak(200)
    assert abs(many - few) < 50_000
    assert peak_many - peak_few < 180 * 2_000 * 3
