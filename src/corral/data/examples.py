"""Examples: labelled (query, item) pairs of a part: clicks, and impressions where the log has them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from corral.data.batches import Batch, Query
from corral.data.dataset import Dataset, EventLog
from corral.data.history import HistoryIndex
from corral.data.split import Part, Split


@dataclass(frozen=True)
class Examples:
    """n labelled pairs, each with the end of its history.

    Attributes:
        user: user rows [n].
        item: item rows [n].
        time: [n], int64.
        event: rows in the event log [n], int64; -1 for impressions.
        end: where the history ends in ``histories`` [n], int64.
        label: [n], float32 in [0, 1].
        histories: the index that histories come from.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    event: np.ndarray
    end: np.ndarray
    label: np.ndarray
    histories: HistoryIndex

    def __len__(self) -> int:
        return len(self.item)

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        split: Split,
        part: Part,
        *,
        label: np.ndarray | None = None,
        impressions: bool = False,
    ) -> Examples:
        """The examples of a part.

        Args:
            dataset: events, and impressions if it has them.
            split: its parts.
            part: which one.
            label: label of each event of the log [N], float32; None: every event is a click, label 1.
            impressions: add what was shown and not clicked, label 0.
        """
        events, histories, rows = dataset.events, split.histories(dataset), split.rows(part)
        columns: list[np.ndarray] = [
            np.asarray(events.user[rows]),
            np.asarray(events.item[rows]),
            np.asarray(events.time[rows]),
            rows,
            histories.ends(rows),
            np.ones(len(rows), dtype=np.float32) if label is None else label[rows],
        ]
        if impressions and dataset.impressions is not None:
            shown = dataset.impressions
            before = _clicks_before(events, shown)
            chosen = np.flatnonzero(_part_of(events, shown, split, before) == part)
            end = before[chosen]
            if histories.kept_before is not None:
                end = histories.kept_before[end]
            added = (
                shown.user[chosen],
                shown.item[chosen],
                shown.time[chosen],
                np.full(len(chosen), -1),
                end,
                np.zeros(len(chosen), dtype=np.float32),
            )
            columns = [np.concatenate(pair) for pair in zip(columns, added, strict=True)]
        user, item, time, event, end, labels = columns
        return cls(user, item, time, event, end, labels, histories)

    def batch(self, at: np.ndarray, history_length: int) -> Batch:
        """The examples at positions ``at`` [B], with histories of ``history_length``."""
        user = self.user[at].astype(np.int64)
        query = Query(
            torch.from_numpy(user),
            torch.from_numpy(self.event[at]),
            self.histories.gather(user, self.end[at], history_length),
            torch.from_numpy(self.time[at]),
        )
        return Batch(query, torch.from_numpy(self.item[at].astype(np.int64)), torch.from_numpy(self.label[at]))


def _clicks_before(events: EventLog, shown: EventLog) -> np.ndarray:
    """For each impression, the event row just after the user's last click with an earlier time [n], int64."""
    # One sorted key for (user, time): a search over all users at once.
    latest = max(int(events.time.max(initial=0)), int(shown.time.max(initial=0)))
    span = latest + 1
    if len(events.offsets) * span >= 2**63:
        raise ValueError(
            f"times up to {latest} with {len(events.offsets)} users are too large; use seconds, not nanoseconds"
        )
    keys = events.user.astype(np.int64) * span + events.time
    return np.searchsorted(keys, shown.user.astype(np.int64) * span + shown.time, side="left")


def _part_of(events: EventLog, shown: EventLog, split: Split, before: np.ndarray) -> np.ndarray:
    """The part of each impression [n]: the given one, that of its time, or that of the user's next click."""
    if split.name == "given" and shown.part is not None:
        return np.asarray(shown.part)
    if split.name == "time-cut":
        cuts = [int(str(split.facts[name])) for name in ("valid_from", "test_from")]
        return np.searchsorted(cuts, shown.time, side="right")
    last = events.offsets[shown.user + 1] - 1
    following = np.minimum(before, last)
    # A user without clicks is in no part of the split but the first.
    return np.where(last >= events.offsets[shown.user], split.part[np.maximum(following, 0)], Part.TRAIN)
