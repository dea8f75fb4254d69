"""Queries at positions of sequences, and the choice of positions, against plain loops."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from small_logs import RULES, Event, event_lists, may_see, padded, plain_rows, small_dataset, split_of

from corral.data import positions
from corral.data.batches import SequenceBatch
from corral.data.positions import choose_positions, queries_at
from corral.data.sequence_loader import SequenceLoader
from corral.data.split import Part


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("rule", RULES)
@given(events=event_lists(max_size=60), window=st.integers(2, 9), length=st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_histories_are_what_the_window_holds_before_the_event(
    rule: str, events: list[Event], window: int, length: int
) -> None:
    """Under ``strict`` nothing of the same moment, under ``order`` the row before; under a given split train events."""
    dataset = small_dataset(events)
    split = split_of(dataset, rule)
    if split is None or not len(split.rows(Part.TRAIN)):
        return
    rows = plain_rows(dataset, split)
    for batch in SequenceLoader(dataset, split, length=window, batch_size=4, seed=7).epoch(0):
        row, slot = batch.target_mask.nonzero(as_tuple=True)
        query = queries_at(batch, row, slot, length)
        assert query.history.shape[1] <= length
        for place, (b, s) in enumerate(zip(row.tolist(), slot.tolist(), strict=True)):
            event = int(batch.event[b, s])
            inside = [other for other in batch.event[b].tolist() if other >= 0]
            seen = [rows[other].item for other in inside if may_see(rows, split, other, event)]
            assert query.history[place].tolist() == padded(seen, query.history.shape[1])
            # A narrower tensor than asked for has lost nothing.
            assert len(seen[-length:]) <= query.history.shape[1]
            assert (int(query.user[place]), int(query.time[place])) == (rows[event].user, rows[event].time)
            assert int(query.event[place]) == event


def sequences() -> SequenceBatch:
    """Two users; the second's first slots are padding and its last two events share a moment."""
    items = torch.tensor([[2, 3, 4, 5], [0, 0, 6, 7]])
    event = torch.tensor([[10, 11, 12, 13], [-1, -1, 20, 21]])
    time = torch.tensor([[1, 2, 3, 4], [0, 0, 9, 9]])
    index = torch.tensor([[0, 1, 2, 3], [0, 0, 2, 2]])
    return SequenceBatch(torch.tensor([2, 3]), items, event, time, index, items != 0)


def test_by_hand() -> None:
    query = queries_at(sequences(), torch.tensor([0, 0, 1, 1]), torch.tensor([3, 0, 2, 3]), 2)
    assert query.history.tolist() == [[3, 4], [0, 0], [0, 0], [0, 0]]
    assert query.user.tolist() == [2, 2, 3, 3]
    assert query.event.tolist() == [13, 10, 20, 21]
    assert query.time.tolist() == [4, 1, 9, 9]
    assert query.features == {}


def test_no_position_and_first_positions_have_no_columns() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert queries_at(sequences(), none, none, 3).history.shape == (0, 0)
    assert queries_at(sequences(), torch.tensor([0, 1]), torch.tensor([0, 2]), 3).history.shape == (2, 0)


@given(
    rows=st.integers(1, 6),
    width=st.integers(1, 9),
    most=st.integers(0, 10),
    share=st.floats(0.0, 1.0),
    seed=st.integers(0, 99),
)
@settings(max_examples=200, deadline=None)
def test_at_most_k_of_the_allowed_places(rows: int, width: int, most: int, share: float, seed: int) -> None:
    mask = torch.rand(rows, width, generator=seeded(seed)) < share
    row, slot = choose_positions(mask, most, seeded(seed + 1))
    chosen = list(zip(row.tolist(), slot.tolist(), strict=True))
    assert len(set(chosen)) == len(chosen), "without replacement"
    assert chosen == sorted(chosen)
    for number in range(rows):
        allowed = [place for place in range(width) if mask[number, place]]
        mine = [place for at, place in chosen if at == number]
        assert set(mine) <= set(allowed)
        assert len(mine) == (min(most, len(allowed)) if most else len(allowed))


def test_a_share_narrower_than_the_choice_keeps_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other shares of the batch have rows with more places: all draw, so that generators stay alike."""
    monkeypatch.setattr(positions, "largest", lambda number: 9)
    row, slot = choose_positions(torch.ones(2, 3, dtype=torch.bool), 4, seeded(0))
    assert list(zip(row.tolist(), slot.tolist(), strict=True)) == [(r, s) for r in range(2) for s in range(3)]


def test_every_place_is_chosen_alike() -> None:
    """Pairs of 3 of 5 allowed places: each of the ten sets as often as any other."""
    mask = torch.tensor([[True, False, True, True, True, False, True]]).expand(6_000, -1)
    row, slot = choose_positions(mask, 3, seeded(0))
    sets = Counter(tuple(places) for places in slot.view(-1, 3).tolist())
    assert torch.equal(row, torch.arange(6_000).repeat_interleave(3))
    assert len(sets) == 10
    assert stats.chisquare(list(sets.values())).pvalue > 1e-3


def test_the_choice_is_the_generators() -> None:
    mask = torch.ones(20, 9, dtype=torch.bool)
    generator = seeded(4)
    first, second = (choose_positions(mask, 2, generator) for _ in range(2))
    again = choose_positions(mask, 2, seeded(4))
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], second[1])
