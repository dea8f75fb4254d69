"""TrainRows: the train events of every user, one after the other, and where each one's history ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from corral.data.dataset import Dataset, EventLog
from corral.data.history import HistoryIndex, HistoryRule
from corral.data.order_statistic import chunks
from corral.data.split import Part, Split


@dataclass(frozen=True)
class TrainRows:
    """Positions count train events, user after user, 0 to n - 1.

    Where every user's train events are their first ones (time cut, leave-last-two-out), rows and ends follow from the
    users' offsets, and memory does not grow with the events. Else (given, random) they are listed: 16 bytes each.

    Attributes:
        start: the first position of each user row [U + 1], int64.
        events: the log.
        rule: of histories.
        listed: event rows and ends of the train events [n], int64; None where they follow from offsets.
    """

    start: np.ndarray
    events: EventLog
    rule: HistoryRule
    listed: tuple[np.ndarray, np.ndarray] | None

    @classmethod
    def of(cls, dataset: Dataset, split: Split) -> TrainRows:
        """The train events of a split."""
        events, train = dataset.events, split.part == Part.TRAIN
        offsets = np.asarray(events.offsets)
        counts = np.zeros(dataset.n_users, dtype=np.int64)
        for rows in chunks(len(train)):
            counts += np.bincount(events.user[rows][train[rows]], minlength=len(counts))
        start = np.concatenate([[0], np.cumsum(counts)])
        # A train event after one that is none must begin another user's events.
        rises = np.flatnonzero(train[1:] > train[:-1]) + 1
        if (offsets[np.searchsorted(offsets, rises)] == rises).all():
            return cls(start, events, split.history_rule, None)
        # Ends are counted in train events: others may lie between them, so that the log's ties do not say it.
        listed = np.flatnonzero(train)
        ends = HistoryIndex.of(events, split.history_rule, train).ends(listed)
        return cls(start, events, split.history_rule, (listed, ends))

    def __len__(self) -> int:
        return int(self.start[-1])

    def rows(self, user: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Event rows at positions ``at`` [B, L] of users [B], int64; what is outside the log is moved into it."""
        if self.listed is not None:
            return self.listed[0].take(at, mode="clip")
        shift = self.events.offsets[user] - self.start[user]
        return (at + shift[:, None]).clip(0, len(self.events) - 1)

    def ends(self, at: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The position just after the last one that each event's history may hold, int64; ``rows`` as from ``rows``."""
        if self.listed is not None:
            return self.listed[1].take(at, mode="clip")
        # Events of one time are all of one part.
        return at - self.events.ties[rows] if self.rule is HistoryRule.STRICT else at

    def most_at_once(self) -> np.ndarray:
        """How many train events of each user row lie at most in one run whose events may not see each other [U], int64.

        1: every event may see the one before it; 0: no train event.
        """
        size = np.diff(self.start)
        most = np.minimum(size, 1)
        if self.rule is not HistoryRule.STRICT:
            return most
        for part in chunks(len(self)):
            at = np.arange(part.start, part.stop)
            user = np.searchsorted(self.start, at, side="right") - 1
            rows = self.rows(user, at[:, None])
            np.maximum.at(most, user, at + 1 - self.ends(at[:, None], rows)[:, 0])
        return most
