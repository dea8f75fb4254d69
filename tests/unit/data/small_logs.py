"""Small event logs full of ties, as a Dataset and as plain Python, for brute-force references."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import strategies

from corral.data.dataset import Dataset, EventLog
from corral.data.dataset_header import Counts, DatasetHeader
from corral.data.event_sort import sort_events
from corral.data.features import FeatureTable
from corral.data.history import HistoryRule
from corral.data.split import Part, Split, given, leave_last_two_out, random_split, time_cut
from corral.data.vocabulary import Vocabulary

Event = tuple[int, int, int, int]  # user id, item id, time, part


def small_dataset(
    events: list[Event], *, shown: list[Event] | None = None, time_unit: str = "seconds", parts: bool = True
) -> Dataset:
    """A Dataset in memory: there is no directory. ``shown``: impressions."""
    both = [*events, *(shown or [])]
    users, items = (Vocabulary.of(pl.Series([event[column] for event in both])) for column in (0, 1))

    def log_of(rows: list[Event]) -> EventLog:
        user, item, time, part = np.array(rows, dtype=np.int64).reshape(-1, 4).T
        part_or_none = part.astype(np.int8) if parts else None
        log = sort_events(users.rows(user), items.rows(item), time, None, part_or_none, len(users))
        return EventLog(log.user, log.item, log.time, log.ties, log.offsets, log.value, log.part)

    counts = Counts(
        users=len(users) - 2,
        items=len(items) - 2,
        events=len(events),
        impressions=0,
        tied_events=0,
        filtered_events=0,
        filtered_impressions=0,
        skipped_rows=0,
        unused_user_features=0,
        unused_item_features=0,
    )
    header = DatasetHeader(
        name="small",
        source="small",
        source_hash="",
        licence="",
        time_unit=time_unit,
        min_user_events=1,
        min_item_events=1,
        iterate=False,
        counts=counts,
        skipped_examples=(),
        user_features=(),
        item_features=(),
        files={},
    )
    return Dataset(
        Path("small"),
        header,
        users,
        items,
        log_of(events),
        log_of(shown) if shown else None,
        FeatureTable(len(users)),
        FeatureTable(len(items)),
    )


@dataclass(frozen=True)
class Row:
    """One event of the sorted log, in plain numbers."""

    user: int
    item: int
    time: int
    part: int


def plain_rows(dataset: Dataset, split: Split) -> list[Row]:
    """The sorted log, row by row."""
    log = dataset.events
    return [Row(int(log.user[e]), int(log.item[e]), int(log.time[e]), int(split.part[e])) for e in range(len(log.item))]


def may_see(rows: list[Row], split: Split, seen: int, event: int) -> bool:
    """The definition: may event ``seen`` be in the history of ``event``?"""
    if rows[seen].user != rows[event].user:
        return False
    if split.train_history_only and rows[seen].part != Part.TRAIN:
        return False
    if split.history_rule is HistoryRule.STRICT:
        return rows[seen].time < rows[event].time
    return seen < event


def plain_history(rows: list[Row], split: Split, event: int) -> list[int]:
    """All items before ``event``, oldest first."""
    return [rows[seen].item for seen in range(len(rows)) if may_see(rows, split, seen, event)]


def padded(items: list[int], length: int) -> list[int]:
    """The last ``length``, zeros at the front."""
    last = items[-length:] if length else []
    return [0] * (length - len(last)) + last


@strategies.composite
def event_lists(draw: strategies.DrawFn, min_size: int = 1, max_size: int = 40) -> list[Event]:
    """Few users, items and times: ties and repeats everywhere, some users with a single event."""
    seed = draw(strategies.integers(0, 2**32 - 1))
    size = draw(strategies.integers(min_size, max_size))
    random = np.random.default_rng(seed)
    users, items, times = (draw(strategies.integers(1, n)) for n in (6, 8, 12))
    columns = [random.integers(0, high, size).tolist() for high in (users, items, times, 3)]
    return list(zip(*columns, strict=True))


RULES = ("time-cut", "leave-last-two-out", "random", "given")


def split_of(dataset: Dataset, rule: str) -> Split | None:
    """The split, or None where this log has not enough distinct times for it."""
    if rule == "time-cut":
        times = np.unique(dataset.events.time)
        if len(times) < 3:
            return None
        third = len(times) // 3
        return time_cut(dataset, valid_from=int(times[third]), test_from=int(times[2 * third]))
    if rule == "random":
        return random_split(dataset, 0.3, 0.3, seed=4) if len(dataset.events) > 3 else None
    return leave_last_two_out(dataset) if rule == "leave-last-two-out" else given(dataset)
