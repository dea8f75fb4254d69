"""Windows of train sequences against their definition, on small logs full of ties."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_logs import RULES, Event, event_lists, may_see, plain_rows, small_dataset, split_of

from corral.data.batches import SequenceBatch
from corral.data.sequence_loader import SequenceLoader
from corral.data.split import Part, time_cut

FIELDS = ("user", "items", "event", "time", "query_index", "target_mask")


def same(left: SequenceBatch, right: SequenceBatch) -> bool:
    return all(torch.equal(getattr(left, name), getattr(right, name)) for name in FIELDS)


def windows(loader: SequenceLoader, epoch: int) -> list[tuple[int, ...]]:
    """The event rows of every window of an epoch."""
    return [
        tuple(event for event in row if event >= 0) for batch in loader.epoch(epoch) for row in batch.event.tolist()
    ]


@pytest.mark.parametrize("rule", RULES)
@given(
    events=event_lists(max_size=60),
    length=st.integers(2, 9),
    batch_size=st.integers(1, 6),
    epoch=st.integers(0, 3),
)
@settings(max_examples=80, deadline=None)
def test_windows(rule: str, events: list[Event], length: int, batch_size: int, epoch: int) -> None:
    dataset = small_dataset(events)
    split = split_of(dataset, rule)
    if split is None or not len(split.rows(Part.TRAIN)):
        return
    rows = plain_rows(dataset, split)
    train = split.rows(Part.TRAIN).tolist()
    seen: Counter[int] = Counter()
    targets: Counter[int] = Counter()
    for batch in SequenceLoader(dataset, split, length=length, batch_size=batch_size, seed=7).epoch(epoch):
        assert len(batch) <= batch_size
        width = batch.items.shape[1]
        assert 1 <= width <= length
        for b in range(len(batch)):
            user = int(batch.user[b])
            mine = [event for event in train if rows[event].user == user]
            window = [event for event in batch.event[b].tolist() if event >= 0]
            pad = width - len(window)
            chosen = [mine.index(event) for event in window]
            gaps = [at for at in range(1, len(chosen)) if chosen[at] != chosen[at - 1] + 1]
            assert len(gaps) <= 1, "neighbours among the user's train events"
            for gap in gaps:  # a piece of a basket behind the events before that basket
                between = range(chosen[gap - 1] + 1, chosen[gap] + 1)
                assert len({rows[mine[at]].time for at in between}) == 1
                assert not may_see(rows, split, mine[between[0]], mine[between[-1]])
                assert not batch.target_mask[b, : pad + gap].any()
            assert batch.event[b].tolist() == [-1] * pad + window
            assert batch.items[b].tolist() == [0] * pad + [rows[event].item for event in window]
            assert batch.time[b].tolist() == [0] * pad + [rows[event].time for event in window]
            assert not batch.target_mask[b, :pad].any()
            seen.update(window)
            for slot, event in enumerate(window, start=pad):
                if not batch.target_mask[b, slot]:
                    continue
                targets[event] += 1
                # Its query is the window's last event that it may see; and it is the last one of all.
                allowed = [other for other in mine if may_see(rows, split, other, event)]
                inside = [other for other in window if other in allowed]
                assert inside[-1:] == allowed[-1:]
                assert int(batch.query_index[b, slot]) == pad + len(inside)
                assert window[: len(inside)] == inside
        assert ((batch.query_index >= 0) & (batch.query_index <= width)).all()
    assert set(seen) == set(train), "every train event in a slot"
    for user in {rows[event].user for event in train}:
        mine = [event for event in train if rows[event].user == user]
        tied = any(not may_see(rows, split, one, other) for one, other in pairwise(mine))
        times = [targets[event] for event in mine]
        if tied or len(mine) <= length:
            assert times == [1] * len(mine), "every event of a user with baskets is a target once"
        else:
            assert [seen[event] for event in mine] == [1] * len(mine), "windows do not overlap"
            assert max(times) == 1
            assert len(mine) - sum(times) <= -(-len(mine) // length), "all but the first of later windows"


def test_late_in_a_basket() -> None:
    """Baskets of 3 and of 40 in windows of 10: every event is predicted in every epoch, from at least three."""
    events = [(0, at % 11, at // 3, 0) for at in range(30)]
    events += [(0, at % 13, 100, 0) for at in range(40)] + [(0, at, 200 + at, 0) for at in range(5)]
    dataset = small_dataset(events)
    split = time_cut(dataset, valid_from=203, test_from=204)
    loader = SequenceLoader(dataset, split, length=10, batch_size=4, seed=0)
    in_large = set(range(30, 70))
    for epoch in range(5):
        predicted: list[int] = []
        for batch in loader.epoch(epoch):
            predicted += batch.event[batch.target_mask].tolist()
            for b, slot in batch.target_mask.nonzero().tolist():
                if int(batch.event[b, slot]) in in_large:
                    history = batch.event[b, : batch.query_index[b, slot]]
                    history = history[history >= 0]
                    assert 3 <= len(history) <= 9
                    assert history.tolist() == list(range(30 - len(history), 30)), "the events before the basket"
        assert sorted(predicted) == list(range(73))


@given(events=event_lists(min_size=5, max_size=60), batch_size=st.integers(1, 5), epoch=st.integers(0, 2))
@settings(max_examples=30, deadline=None)
def test_resume_gives_the_tail_of_the_epoch(events: list[Event], batch_size: int, epoch: int) -> None:
    dataset = small_dataset(events)
    split = split_of(dataset, "leave-last-two-out")
    assert split is not None
    whole, other = (SequenceLoader(dataset, split, length=4, batch_size=batch_size, seed=3) for _ in range(2))
    batches = list(whole.epoch(epoch))
    for first in range(len(batches) + 1):
        tail = list(other.epoch(epoch, first))
        assert len(tail) == len(batches) - first
        assert all(map(same, tail, batches[first:]))


def long_users() -> tuple[SequenceLoader, SequenceLoader]:
    """Loaders of two seeds over five users of 60 train events and ten of 3."""
    events = [(user, (user * 7 + at) % 11, at, 0) for user in range(5) for at in range(62)]
    events += [(user, at, at, 0) for user in range(5, 15) for at in range(5)]
    dataset = small_dataset(events)
    split = split_of(dataset, "leave-last-two-out")
    assert split is not None
    first, second = (SequenceLoader(dataset, split, length=8, batch_size=4, seed=seed) for seed in (0, 1))
    return first, second


def test_cuts_shift_from_epoch_to_epoch() -> None:
    loader, _ = long_users()
    starts = [{window[0] for window in windows(loader, epoch) if len(window) > 3} for epoch in range(6)]
    assert len({frozenset(start) for start in starts}) == 6
    # Every event of the first long user, but its very first, is now and then inside a window.
    inside = set().union(*({e for window in windows(loader, epoch) for e in window[1:]} for epoch in range(40)))
    assert inside >= set(range(1, 60))


def test_order_depends_on_seed_and_epoch_only() -> None:
    loader, other = long_users()
    assert windows(loader, 1) == windows(loader, 1)
    assert windows(loader, 1) != windows(loader, 2)
    assert windows(loader, 1) != windows(other, 1)


def test_number_of_batches() -> None:
    loader, _ = long_users()
    sizes = [len(list(loader.epoch(epoch))) for epoch in range(8)]
    assert loader.batches_per_epoch() == sizes[0]
    assert max(sizes) - min(sizes) <= 2


def test_full_windows_are_full() -> None:
    """Cuts cost at most one short window at each end of a user."""
    loader, _ = long_users()
    lengths = Counter(len(window) for window in windows(loader, 0) if window[0] < 60 * 5 + 10)
    assert max(lengths) == 8
    assert lengths[8] >= 5 * 6


def test_similar_lengths_share_a_batch() -> None:
    events = [(user, at, at, 0) for user in range(64) for at in range(2 + user % 16 + 1)]
    dataset = small_dataset(events)
    split = split_of(dataset, "leave-last-two-out")
    assert split is not None
    loader = SequenceLoader(dataset, split, length=50, batch_size=4, seed=0)
    slots, real = (sum(int(x) for x in values) for values in zip(
        *((batch.items.numel(), (batch.items != 0).sum()) for batch in loader.epoch(0)), strict=True
    ))  # fmt: skip
    assert real / slots > 0.95


def test_a_window_needs_two_events() -> None:
    dataset = small_dataset([(0, 1, 1, 0)])
    split = split_of(dataset, "leave-last-two-out")
    assert split is not None
    with pytest.raises(ValueError, match="length=1"):
        SequenceLoader(dataset, split, length=1, batch_size=4, seed=0)
    (batch,) = SequenceLoader(dataset, split, length=2, batch_size=4, seed=0).epoch(0)
    assert batch.items.tolist() == [[2]]
    assert batch.query_index.tolist() == [[0]]
    assert batch.target_mask.tolist() == [[True]]


def test_a_batch_holds_users_from_everywhere() -> None:
    """The log is sorted by user; the shuffle is over all windows, not over some that lie together."""
    dataset = small_dataset([(user, at % 7, at, 0) for user in range(400) for at in range(5)])
    split = split_of(dataset, "leave-last-two-out")
    assert split is not None
    batches = list(SequenceLoader(dataset, split, length=4, batch_size=20, seed=0).epoch(0))
    assert all(int(batch.user.max() - batch.user.min()) > 200 for batch in batches)
    means = torch.stack([batch.user.float().mean() for batch in batches])
    # Of 20 users drawn from 400: 202 +- 26.
    assert float((means - 202).abs().max()) < 5 * 26
