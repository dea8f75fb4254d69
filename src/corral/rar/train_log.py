"""TrainLog: the train events as columns, and what every event says beyond its user's habit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from corral.data.dataset import Dataset
from corral.data.split import Part, Split
from corral.rar.residuals import residuals


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
        columns = [np.asarray(column).astype(np.int64) for column in (events.user, events.item, events.time)]
        labels = np.ones(len(train)) if labels is None else labels
        # Of train events by train events alone: in some splits others come before them in time.
        value = residuals(columns[0], columns[2], labels)
        value[train] = residuals(columns[0][train], columns[2][train], labels[train])
        kept = train if split.train_history_only else np.ones_like(train)
        mine, every = ([column[rows] for column in (*columns, value)] for rows in (train, kept))
        return cls(mine[0], mine[1], mine[2], mine[3], (every[0], every[1], every[2], every[3]))

    @property
    def density(self) -> float:
        """Share of all (user, item) pairs of the log that it holds, kept within (0, 1/2]."""
        pairs = len(np.unique(self.user * (int(self.item.max(initial=0)) + 1) + self.item))
        cells = len(np.unique(self.user)) * len(np.unique(self.item))
        return float(np.clip(pairs / max(cells, 1), 1e-6, 0.5))
