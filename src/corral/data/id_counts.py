"""IdCounts: the distinct ids of events that come some at a time, with how often each came."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

from corral.data.vocabulary import FIRST_ROW, Vocabulary

_ROWS_FREE = 1 << 20


class IdCounts:
    """Collects ids; in memory are a few times the distinct ones."""

    def __init__(self) -> None:
        self._frames: list[pl.DataFrame] = []
        self._waiting = 0

    def add(self, ids: pl.Series, clicked: pl.Series) -> None:
        """Counts some rows.

        Args:
            ids: of one kind [n], without nulls.
            clicked: 1 for an event, 0 for an impression [n].
        """
        if not len(ids):
            return
        rows = pl.DataFrame({"id": ids, "events": clicked.cast(pl.Int64)})
        self._frames.append(rows.group_by("id").agg(pl.col("events").sum(), impressions=(1 - pl.col("events")).sum()))
        self._waiting += len(self._frames[-1])
        if self._waiting > max(_ROWS_FREE, len(self._frames[0])):
            self._frames = [_summed(self._frames)]
            self._waiting = 0

    def save(self, path: Path) -> None:
        """Writes what was counted, for ``merged``."""
        if self._frames:
            _summed(self._frames).write_ipc(path)


def merged(paths: Iterable[Path]) -> tuple[Vocabulary, np.ndarray, np.ndarray]:
    """What several ``IdCounts`` saved, as one; a path without a file counted nothing.

    Returns:
        The vocabulary of all ids, and the events and the impressions of each of its rows, int64.
    """
    found = _summed([pl.read_ipc(path) for path in paths if path.exists()]).sort("id")
    reserved = np.zeros(FIRST_ROW, dtype=np.int64)
    events, impressions = (np.concatenate([reserved, found[column].to_numpy()]) for column in ("events", "impressions"))
    return Vocabulary(found["id"].rechunk().to_arrow()), events, impressions


def _summed(frames: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(frames).group_by("id").agg(pl.col("events", "impressions").sum())
