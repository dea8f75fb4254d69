"""TrainLog: the train events as columns, and what every event says beyond its user's habit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from corral.data.dataset import Dataset
from corral.data.split import Part, Split
from corral.rar.keys import residuals


@dataclass(frozen=True)
class TrainLog:
    """Train events as columns, and what every event of the log says beyond its user's habit.

    Attributes:
        user, item, time, value: of the train events [n].
        every: the same four columns of all events that a history may hold [N].
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    value: np.ndarray
    every: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

    @classmethod
    def of(cls, dataset: Dataset, split: Split, labels: np.ndarray | None) -> TrainLog:
        """The log of a split.

        Args:
            dataset: the events.
            split: which of them train.
            labels: of all events of the log [N]; None: all are clicks.
        """
        events, train = dataset.events, split.part == Part.TRAIN
        user, item, time = (np.asarray(column).astype(np.int64) for column in (events.user, events.item, events.time))
        value = residuals(user, time, np.ones(len(user)) if labels is None else labels)
        if split.train_history_only:  # such a split need not follow time
            user, item, time, value = (column[train] for column in (user, item, time, value))
            train = np.ones(len(user), dtype=bool)
        return cls(user[train], item[train], time[train], value[train], (user, item, time, value))

    @property
    def density(self) -> float:
        """Share of all (user, item) pairs of the log that it holds, kept within (0, 1/2]."""
        pairs = len(np.unique(self.user * (int(self.item.max(initial=0)) + 1) + self.item))
        cells = len(np.unique(self.user)) * len(np.unique(self.item))
        return float(np.clip(pairs / max(cells, 1), 1e-6, 0.5))
