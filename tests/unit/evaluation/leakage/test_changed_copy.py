"""Copies with another future, one other event or fewer users: what is to change does, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from corral.data.dataset import Dataset, EventLog
from corral.data.examples import impression_parts
from corral.data.split import Part, Split
from corral.evaluation.leakage.changed_copy import altered, corrupted, flipped, some_users


def columns(log: EventLog, rows: np.ndarray) -> list[list[float]]:
    return [np.asarray(getattr(log, name))[rows].tolist() for name in ("user", "item", "time", "value")]


def in_order(log: EventLog, num_users: int) -> None:
    """Offsets and ties are those of the rows that are there."""
    assert log.offsets.tolist() == [0, *np.cumsum(np.bincount(log.user, minlength=num_users)).tolist()]
    ties = 0
    for row in range(1, len(log)):
        same = log.user[row] == log.user[row - 1] and log.time[row] == log.time[row - 1]
        ties = ties + 1 if same else 0
        assert log.ties[row] == ties


def test_the_corrupted_part_is_wrong_and_the_rest_is_as_it_was(shop: Dataset, split: Split) -> None:
    copy = corrupted(shop, split, [Part.VALID, Part.TEST], mark=3.0)
    past, future = split.rows(Part.TRAIN), np.flatnonzero(split.part != Part.TRAIN)
    there = copy.row[past]
    assert columns(shop.events, past) == columns(copy.dataset.events, there)
    in_order(copy.dataset.events, shop.n_users)
    assert copy.split.rows(Part.TRAIN).tolist() == there.tolist()
    stays = copy.row[future] >= 0
    assert 0.5 < stays.mean() < 0.8
    here, there = future[stays], copy.row[future[stays]]
    assert copy.split.part[there].tolist() == split.part[here].tolist()
    assert shop.events.value is not None
    assert copy.dataset.events.value is not None
    assert ((shop.events.value[here] >= 3) != (copy.dataset.events.value[there] >= 3)).all(), "labels are flipped"
    assert (shop.events.item[here] != copy.dataset.events.item[there]).mean() > 0.8
    assert len(copy.dataset.events) == len(past) + stays.sum()

    # The same of impressions.
    assert shop.impressions is not None
    assert copy.dataset.impressions is not None
    in_order(copy.dataset.impressions, shop.n_users)
    parts, after = impression_parts(shop, split), impression_parts(copy.dataset, copy.split)
    untouched = np.flatnonzero(parts == Part.TRAIN)
    kept = np.flatnonzero(after == Part.TRAIN)
    for name in ("user", "item", "time"):
        log, other = getattr(shop.impressions, name), getattr(copy.dataset.impressions, name)
        assert log[untouched].tolist() == other[kept].tolist()
    assert len(copy.dataset.impressions) < len(shop.impressions)


def test_one_event_is_altered(shop: Dataset, split: Split) -> None:
    copy = altered(shop, split, event=17, item=5, mark=3.0)
    rest = np.delete(np.arange(len(shop.events)), 17)
    assert columns(shop.events, rest) == columns(copy.dataset.events, rest)
    assert copy.dataset.events.item[17] == 5
    assert copy.row.tolist() == list(range(len(shop.events)))
    assert copy.dataset.impressions is shop.impressions
    copy = altered(shop, split, shown=3, item=6)
    assert copy.dataset.events is shop.events
    assert shop.impressions is not None
    assert copy.dataset.impressions is not None
    assert copy.dataset.impressions.item[3] == 6
    assert np.delete(copy.dataset.impressions.item, 3).tolist() == np.delete(shop.impressions.item, 3).tolist()


@pytest.mark.parametrize("mark", [None, 1.0, 3.0, 5.0, 0.0])
def test_every_value_changes_sides(mark: float | None) -> None:
    value = np.array([1, 2, 3, 4, 5], dtype=np.float32)
    other, border = flipped(value, mark), 2.5 if mark is None else mark
    assert ((value >= border) != (other >= border)).all()
    alike = np.ones(3, dtype=np.float32)
    assert (flipped(alike, None) != alike).all()


def test_some_users(shop: Dataset, split: Split) -> None:
    copy = some_users(shop, split, 200, seed=1)
    assert 150 < len(copy.dataset.events) <= 200
    in_order(copy.dataset.events, shop.n_users)
    chosen = np.unique(copy.dataset.events.user)
    rows = np.flatnonzero(np.isin(shop.events.user, chosen))
    assert columns(shop.events, rows) == columns(copy.dataset.events, copy.row[rows])
    assert copy.split.part.tolist() == split.part[rows].tolist()
    assert copy.dataset.impressions is not None
    assert set(copy.dataset.impressions.user) <= set(chosen)
    assert (copy.dataset.n_users, copy.dataset.n_items) == (shop.n_users, shop.n_items)
    assert np.unique(some_users(shop, split, 1, seed=1).dataset.events.user).size == 1
    assert len(some_users(shop, split, 10**6, seed=1).dataset.events) == len(shop.events)
