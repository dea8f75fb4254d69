"""Copies of a data set in memory with some events changed or left out; all ids keep their rows."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from corral.data.dataset import Dataset, EventLog
from corral.data.event_sort import sort_events
from corral.data.examples import impression_parts
from corral.data.split import Part, Split


@dataclass(frozen=True)
class ChangedCopy:
    """A copy with its split.

    Attributes:
        dataset: the copy; it exists in memory only.
        split: the parts of the events that were kept.
        row: where each event row of the original stands [N], int64; -1 for those left out.
    """

    dataset: Dataset
    split: Split
    row: np.ndarray


def _kept(log: EventLog, keep: np.ndarray, users: int, item: np.ndarray, value: np.ndarray | None) -> EventLog:
    """The log's rows where ``keep`` [n], with other items [n] and values [n]."""
    part = None if log.part is None else log.part[keep]
    values = None if value is None else value[keep]
    made = sort_events(log.user[keep], item[keep], log.time[keep], values, part, users)
    return EventLog(made.user, made.item, made.time, made.ties, made.offsets, made.value, made.part)


def _copy(
    dataset: Dataset, split: Split, keep: np.ndarray, events: EventLog, shown: EventLog | None, kept_shown: np.ndarray
) -> ChangedCopy:
    # Parts are the split's to say: what is left of the log must not deal the impressions out anew.
    parts = None if dataset.impressions is None else impression_parts(dataset, split)[kept_shown]
    reduced = replace(split, part=split.part[keep], impression_part=parts)
    row = np.where(keep, np.cumsum(keep) - 1, -1)
    return ChangedCopy(replace(dataset, events=events, impressions=shown), reduced, row)


def some_users(dataset: Dataset, split: Split, events: int, seed: int) -> ChangedCopy:
    """All events and impressions of users drawn from ``seed``, together at most ``events`` clicks.

    A user with more events than there is room for is passed over; if all have more, the shortest is taken.
    """
    counts = np.diff(dataset.events.offsets)
    users = np.random.default_rng((seed, 7)).permutation(np.flatnonzero(counts))
    room = events - np.cumsum(counts[users])
    # Short users behind a long one still find room: two passes over the lots are enough for a sample.
    first = users[room >= 0]
    rest = users[room < 0]
    rest = rest[np.cumsum(counts[rest]) <= events - counts[first].sum()]
    chosen = np.concatenate([first, rest]) if len(first) + len(rest) else users[[np.argmin(counts[users])]]
    wanted = np.zeros(dataset.n_users, dtype=bool)
    wanted[chosen] = True
    log, shown = dataset.events, dataset.impressions
    keep = wanted[log.user]
    kept_shown = np.zeros(0, dtype=bool) if shown is None else wanted[shown.user]
    less = None if shown is None else _kept(shown, kept_shown, dataset.n_users, shown.item, shown.value)
    return _copy(dataset, split, keep, _kept(log, keep, dataset.n_users, log.item, log.value), less, kept_shown)


def flipped(value: np.ndarray, mark: float | None) -> np.ndarray:
    """Values [n] on the other side of ``mark`` (of the middle, without one): the lowest become the highest."""
    low, high = float(value.min(initial=0.0)), float(value.max(initial=1.0))
    middle = (low + high) / 2 if mark is None else mark
    return np.where(value >= middle, min(low, middle - 1), max(high, middle)).astype(np.float32)


def corrupted(
    dataset: Dataset, split: Split, parts: Collection[Part], *, mark: float | None = None, seed: int = 0
) -> ChangedCopy:
    """A copy in which nothing of ``parts`` is true any more: a third of their rows is gone, the items of the others
    are permuted, their values flipped. All other rows are as they were.

    Args:
        dataset: the events.
        split: their parts.
        parts: what is corrupted.
        mark: the value from which on an event counts as a click, if there is one.
        seed: of the corruption.
    """
    random = np.random.default_rng((seed, 11))

    def spoilt(log: EventLog, part: np.ndarray) -> tuple[np.ndarray, EventLog]:
        future = np.isin(part, [int(p) for p in parts])
        item, value = np.array(log.item), None if log.value is None else np.array(log.value)
        item[future] = random.permutation(item[future])
        if value is not None:
            value[future] = flipped(np.asarray(log.value), mark)[future]
        keep = ~future | (random.random(len(future)) > 1 / 3)
        return keep, _kept(log, keep, dataset.n_users, item, value)

    keep, events = spoilt(dataset.events, split.part)
    if dataset.impressions is None:
        return _copy(dataset, split, keep, events, None, np.zeros(0, dtype=bool))
    kept_shown, shown = spoilt(dataset.impressions, impression_parts(dataset, split))
    return _copy(dataset, split, keep, events, shown, kept_shown)


def altered(
    dataset: Dataset, split: Split, *, event: int = -1, shown: int = -1, item: int, mark: float | None = None
) -> ChangedCopy:
    """A copy in which one click (row ``event``) or impression (row ``shown``) has another item and another value."""

    def one(log: EventLog, row: int) -> EventLog:
        items, value = np.array(log.item), None if log.value is None else np.array(log.value)
        items[row] = item
        if value is not None:
            value[row] = flipped(np.asarray(log.value), mark)[row]
        return replace(log, item=items, value=value)

    changed, impressions = dataset.events, dataset.impressions
    if event >= 0:
        changed = one(changed, event)
    elif impressions is not None:
        impressions = one(impressions, shown)
    return ChangedCopy(replace(dataset, events=changed, impressions=impressions), split, np.arange(len(dataset.events)))
