"""EventSpill: numbered events on the disk, one file for each range of users, in the order of their source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_CHUNK_ROWS = 1 << 22
_TYPES = {"user": "<i4", "item": "<i4", "time": "<i8", "value": "<f4", "part": "i1"}


@dataclass(frozen=True)
class EventSpill:
    """Records of a log, dealt to ranges of user rows by one or several writers.

    Attributes:
        folder: where the files are.
        log: "events" or "impressions".
        bounds: range p holds user rows ``bounds[p]`` to ``bounds[p + 1]`` (exclusive).
        writers: how many there are; what writer w saw comes before what w + 1 saw.
        columns: those that the records have, beside user, item and time.
    """

    folder: Path
    log: str
    bounds: tuple[int, ...]
    writers: int
    columns: tuple[str, ...]

    @property
    def dtype(self) -> np.dtype:
        """Of a record."""
        return np.dtype([(name, _TYPES[name]) for name in ("user", "item", "time", *self.columns)])

    def paths(self, place: int) -> list[Path]:
        """The files of a range, in order; a writer that had nothing for it made none."""
        return [path for writer in range(self.writers) if (path := self._path(place, writer)).exists()]

    def read(self, place: int) -> np.ndarray:
        """The records of a range, in the order of their source."""
        return np.concatenate([np.empty(0, self.dtype), *(np.fromfile(path, self.dtype) for path in self.paths(place))])

    def pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """User and item rows of all records, some at a time."""
        for place in range(len(self.bounds) - 1):
            for path in self.paths(place):
                with path.open("rb") as stream:
                    while len(records := np.fromfile(stream, self.dtype, _CHUNK_ROWS)):
                        yield records["user"], records["item"]

    def remove(self, place: int) -> None:
        """Frees the disk of a range."""
        for path in self.paths(place):
            path.unlink()

    def _path(self, place: int, writer: int) -> Path:
        return self.folder / f"{self.log}-{place:05d}-{writer:05d}"


class SpillWriter:
    """One of a spill's writers. What an earlier attempt of the same writer left is removed.

    No file stays open: there may be more ranges than a process may have open files.
    """

    def __init__(self, spill: EventSpill, writer: int) -> None:
        self._spill, self._writer = spill, writer
        for place in range(len(spill.bounds) - 1):
            spill._path(place, writer).unlink(missing_ok=True)

    def add(self, records: np.ndarray) -> None:
        """Deals records to their ranges; within a range they keep their order."""
        place = np.searchsorted(self._spill.bounds, records["user"], side="right") - 1
        order = np.argsort(place, kind="stable")
        counts = np.bincount(place, minlength=1)
        ends = np.cumsum(counts)
        for found in np.flatnonzero(counts).tolist():
            with self._spill._path(found, self._writer).open("ab") as stream:
                stream.write(records[order[ends[found] - counts[found] : ends[found]]].data)


def user_ranges(events: np.ndarray, most: int) -> tuple[int, ...]:
    """Bounds of ranges of user rows with at most ``most`` events each; a user who has more is a range of one.

    Args:
        events: of each user row [U].
        most: of a range.
    """
    ends, bounds = np.cumsum(events), [0]
    while bounds[-1] < len(events):
        before = int(ends[bounds[-1] - 1]) if bounds[-1] else 0
        bounds.append(max(int(np.searchsorted(ends, before + most, side="right")), bounds[-1] + 1))
    return tuple(bounds)
