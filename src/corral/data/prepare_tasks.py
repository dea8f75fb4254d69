"""The tasks of preparing a Dataset: reading some files, and sorting the events of some users.

A task says by its arguments alone what to do, and leaves what it made in files: it may run in another process, and
again after an attempt that died.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from corral.data.event_sort import sort_events
from corral.data.event_spill import EventSpill, SpillWriter
from corral.data.id_counts import IdCounts
from corral.data.parquet_interactions import ParquetFile, ParquetInteractions
from corral.data.skipped_rows import SkippedRows
from corral.data.vocabulary import Vocabulary

IDS = {"user_id": "users", "item_id": "items"}
"""Columns of ids, and what their vocabularies are called."""


@dataclass(frozen=True)
class Run:
    """A task of reading.

    Attributes:
        interactions: whose files they are.
        folder: where what is made of them goes.
        place: of this task among all.
        files: some files, one after the other, and whether they are of impressions.
    """

    interactions: ParquetInteractions
    folder: Path
    place: int
    files: tuple[tuple[ParquetFile, bool], ...]

    def counts(self, key: str) -> Path:
        """Where the ids of a column are noted."""
        return self.folder / f"{key}-{self.place:05d}.counts"


def runs_of(interactions: ParquetInteractions, writers: int) -> Iterator[tuple[tuple[ParquetFile, bool], ...]]:
    """The files, in order, in at most ``writers`` pieces of about equally many rows."""
    files = [(file, False) for file in interactions.files] + [(file, True) for file in interactions.shown]
    rows = np.cumsum([file.rows for file, _ in files])
    piece = np.minimum((rows - 1).clip(0) * writers // max(int(rows[-1]), 1), writers - 1)
    for place in np.unique(piece):
        yield tuple(files[index] for index in np.flatnonzero(piece == place))


def count_ids(run: Run) -> SkippedRows:
    """Checks all rows and notes the ids; what was skipped."""
    counts, total = {key: IdCounts() for key in IDS}, SkippedRows()
    for file, shown in run.files:
        for frame, skipped in run.interactions.batches(file, shown):
            total += skipped
            for key, ids in counts.items():
                ids.add(frame[key], frame["label"])
    for key, ids in counts.items():
        ids.save(run.counts(key))
    return total


def deal(run: Run, spills: tuple[EventSpill, ...]) -> None:
    """Numbers the rows and deals them to the ranges of users."""
    users, items = (Vocabulary.open(run.folder / f"{name}.arrow") for name in IDS.values())
    writers = {spill: SpillWriter(spill, run.place) for spill in spills}
    for file, shown in run.files:
        for frame, _ in run.interactions.batches(file, shown):
            for spill, writer in writers.items():
                rows = frame.filter(pl.col("label") == (spill.log == "events"))
                if not len(rows):
                    continue
                records = np.empty(len(rows), spill.dtype)
                records["user"], records["item"] = users.rows(rows["user_id"]), items.rows(rows["item_id"])
                records["time"] = rows["timestamp"].to_numpy()
                for column in spill.columns:
                    records[column] = rows[column].to_numpy()
                writer.add(records)


@dataclass(frozen=True)
class Range:
    """A task of sorting: the events of the users of a spill's range ``place``."""

    spill: EventSpill
    place: int

    def column(self, name: str) -> Path:
        """Where a column of the sorted events is put."""
        return self.spill.folder / f"{self.spill.log}-{self.place:05d}.{name}"


def sort_range(task: Range, filtered: bool) -> tuple[int, int]:
    """Sorts the events of a range into columns; how many there are, and how many are tied with the one before."""
    spill = task.spill
    records = spill.read(task.place)
    low, high = spill.bounds[task.place : task.place + 2]
    user, item = records["user"], records["item"]
    if filtered:
        good_users, good_items = (np.load(spill.folder / f"kept-{name}.npy") for name in IDS.values())
        keep = good_users[user] & good_items[item]
        records, new_user, new_item = (
            records[keep],
            *(np.cumsum(good, dtype=np.int32) for good in (good_users, good_items)),
        )
        user, item = new_user[records["user"]] - 1, new_item[records["item"]] - 1
        low, high = (int(new_user[bound - 1]) if bound else 0 for bound in (low, high))
    columns = {name: np.ascontiguousarray(records[name]) for name in ("time", *spill.columns)}
    log = sort_events(
        user - np.int32(low),
        np.ascontiguousarray(item),
        columns["time"],
        columns.get("value"),
        columns.get("part"),
        high - low,
    )
    for name, values in log.columns().items():
        if name == "user":
            values = values + np.int32(low)
        # Ranges are put together one after the other: events of each user, not yet added up.
        pieces = np.diff(values) if name == "offsets" else values
        task.column(name).write_bytes(np.ascontiguousarray(pieces).data)
    return len(log.item), int(np.count_nonzero(log.ties))
