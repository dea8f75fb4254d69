"""Histories: the last L items before an event, gathered on the fly from offsets, never materialised."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor

from corral.data.dataset import EventLog


class HistoryRule(StrEnum):
    """What counts as "before" an event when times tie (ties are common: whole baskets share one time).

    STRICT: only events with an earlier time. ORDER: all earlier rows of the user's (time, source row) order.
    """

    STRICT = "strict"
    ORDER = "order"


@dataclass(frozen=True)
class HistoryIndex:
    """Where each event's history ends, and how to gather it.

    Attributes:
        items: item rows of the log [n], int32, sorted by (user, time, source row).
        offsets: first position of each user row in ``items`` [U + 1], int64.
        rule: how ties are treated.
        ties: for each event of the full log, how many directly preceding events share its time [n], int32.
        kept_before: where only some events may be seen (a given split), how many kept events lie before
            each row of the full log [n + 1], int64; None when every event is kept.
    """

    items: np.ndarray
    offsets: np.ndarray
    rule: HistoryRule
    ties: np.ndarray
    kept_before: np.ndarray | None = None

    @classmethod
    def of(cls, events: EventLog, rule: HistoryRule, keep: np.ndarray | None = None) -> HistoryIndex:
        """The index over all ``events``, or over those where ``keep`` [n] (bool) is true."""
        if keep is None:
            return cls(events.item, events.offsets, rule, events.ties)
        before = np.concatenate([[0], np.cumsum(keep, dtype=np.int64)])
        return cls(events.item[keep], before[events.offsets], rule, events.ties, before)

    def ends(self, event: np.ndarray) -> np.ndarray:
        """Position in ``items`` just after the last item before each event [B], int64."""
        end = event.astype(np.int64)
        if self.rule is HistoryRule.STRICT:
            end = end - self.ties[event]
        return end if self.kept_before is None else self.kept_before[end]

    def gather(self, user: np.ndarray, end: np.ndarray, length: int) -> Tensor:
        """The last ``length`` items before ``end``: [B, length], int64, oldest first, zeros at the front.

        Args:
            user: user rows [B].
            end: positions as given by :meth:`ends` [B].
            length: L >= 0.
        """
        return torch.from_numpy(last_items(self.items, self.offsets[user], end, length))


def last_items(items: np.ndarray, start: np.ndarray, end: np.ndarray, length: int | None) -> np.ndarray:
    """The last ``length`` of ``items[start:end]``, for each of B pieces.

    Args:
        items: item rows of all pieces [n].
        start: [B].
        end: [B].
        length: L; None: the longest piece.

    Returns:
        [B, L], int64, oldest first, 0-padded at the front.
    """
    wanted = int((end - start).max(initial=0)) if length is None else length
    at = end[:, None] + np.arange(-wanted, 0)
    if not len(items):
        return np.zeros(at.shape, dtype=np.int64)
    # Gathered with out-of-range places clipped, then cleared: cheaper than gathering through a mask.
    rows = items.take(at, mode="clip")
    rows[at < start[:, None]] = 0
    return rows.astype(np.int64)
