"""Clicks: the events of a part as examples, gathered from the log when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from corral.data.batches import Batch, Query
from corral.data.dataset import Dataset, EventLog
from corral.data.history import HistoryIndex
from corral.data.split import Part, Split


@dataclass(frozen=True)
class Clicks:
    """What ``Examples`` of events without labels or impressions are, in 8 bytes each in place of 36.

    Attributes:
        event: rows in the event log [n], int64, ascending.
        events: the log.
        histories: the index that histories come from.
    """

    event: np.ndarray
    events: EventLog
    histories: HistoryIndex

    @classmethod
    def of(cls, dataset: Dataset, split: Split, part: Part) -> Clicks:
        """The events of a part."""
        return cls(split.rows(part), dataset.events, split.histories(dataset))

    def __len__(self) -> int:
        return len(self.event)

    @property
    def user(self) -> np.ndarray:
        """User rows [n], made anew at each call."""
        return self.events.user[self.event]

    def batch(self, at: np.ndarray, history_length: int) -> Batch:
        """The clicks at positions ``at`` [B], with histories of ``history_length`` and label 1."""
        event = self.event[at]
        user = self.events.user[event].astype(np.int64)
        query = Query(
            torch.from_numpy(user),
            torch.from_numpy(event),
            self.histories.gather(user, self.histories.ends(event), history_length),
            torch.from_numpy(self.events.time[event]),
        )
        weight = None if self.events.weight is None else torch.from_numpy(self.events.weight[event])
        return Batch(query, torch.from_numpy(self.events.item[event].astype(np.int64)), torch.ones(len(at)), weight)
