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
        weight: what each counts in a loss [n], float32; None: all alike.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    event: np.ndarray
    end: np.ndarray
    label: np.ndarray
    histories: HistoryIndex
    weight: np.ndarray | None = None

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
        weight = None if events.weight is None else np.asarray(events.weight[rows])
        if impressions and dataset.impressions is not None:
            shown = dataset.impressions
            chosen = np.flatnonzero(impression_parts(dataset, split) == part)
            end = history_ends(events, histories, shown.user[chosen], shown.time[chosen])
            added = (
                shown.user[chosen],
                shown.item[chosen],
                shown.time[chosen],
                np.full(len(chosen), -1),
                end,
                np.zeros(len(chosen), dtype=np.float32),
            )
            columns = [np.concatenate(pair) for pair in zip(columns, added, strict=True)]
            if weight is not None:
                theirs = np.ones(len(shown), dtype=np.float32) if shown.weight is None else shown.weight
                weight = np.concatenate([weight, theirs[chosen]])
        user, item, time, event, end, labels = columns
        return cls(user, item, time, event, end, labels, histories, weight)

    def sample(self, count: int, generator: np.random.Generator) -> Examples:
        """At most ``count`` of the examples, in their order."""
        if count >= len(self):
            return self
        return self.at(np.sort(generator.choice(len(self), count, replace=False)))

    def at(self, places: np.ndarray) -> Examples:
        """Those at ``places`` [k], in that order."""
        user, item, time, event, end, label = (
            column[places] for column in (self.user, self.item, self.time, self.event, self.end, self.label)
        )
        weight = None if self.weight is None else self.weight[places]
        return Examples(user, item, time, event, end, label, self.histories, weight)

    def batch(self, at: np.ndarray, history_length: int) -> Batch:
        """The examples at positions ``at`` [B], with histories of ``history_length``."""
        user = self.user[at].astype(np.int64)
        query = Query(
            torch.from_numpy(user),
            torch.from_numpy(self.event[at]),
            self.histories.gather(user, self.end[at], history_length),
            torch.from_numpy(self.time[at]),
        )
        weight = None if self.weight is None else torch.from_numpy(self.weight[at])
        return Batch(query, torch.from_numpy(self.item[at].astype(np.int64)), torch.from_numpy(self.label[at]), weight)


def history_ends(events: EventLog, histories: HistoryIndex, user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Where the histories of users [n] at times [n] that are no events end in ``histories`` [n], int64."""
    before = _clicks_before(events, user, time)
    return before if histories.kept_before is None else histories.kept_before[before]


def impression_parts(dataset: Dataset, split: Split) -> np.ndarray:
    """The part of each impression [n]; empty where there are none."""
    shown = dataset.impressions
    if shown is None:
        return np.zeros(0, dtype=np.uint8)
    return _part_of(dataset.events, shown, split, _clicks_before(dataset.events, shown.user, shown.time))


def _clicks_before(events: EventLog, user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """The event rows just after the last clicks of users [n] before times [n]: [n], int64."""
    # One sorted key for (user, time): a search over all users at once.
    latest = max(int(events.time.max(initial=0)), int(time.max(initial=0)))
    span = latest + 1
    if len(events.offsets) * span >= 2**63:
        raise ValueError(
            f"times up to {latest} with {len(events.offsets)} users are too large; use seconds, not nanoseconds"
        )
    keys = events.user.astype(np.int64) * span + events.time
    return np.searchsorted(keys, user.astype(np.int64) * span + time, side="left")


def _part_of(events: EventLog, shown: EventLog, split: Split, before: np.ndarray) -> np.ndarray:
    """The part of each impression [n]: the given or dealt one, that of its time, or that of the user's next click."""
    if split.impression_part is not None:
        return split.impression_part
    if split.name == "given" and shown.part is not None:
        return np.asarray(shown.part)
    if split.name == "time-cut":
        cuts = [int(str(split.facts[name])) for name in ("valid_from", "test_from")]
        return np.searchsorted(cuts, shown.time, side="right")
    last = events.offsets[shown.user + 1] - 1
    following = np.minimum(before, last)
    # A user without clicks is in no part of the split but the first.
    return np.where(last >= events.offsets[shown.user], split.part[np.maximum(following, 0)], Part.TRAIN)
