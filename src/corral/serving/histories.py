"""UserHistories: what each user did up to the export: inputs of the models, and what ``filter_seen`` hides.

Shape letters: B users asked for, U user rows, L history length, E longest list of seen items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from corral.data.dataset import EventLog
from corral.data.history import last_items


@dataclass(frozen=True)
class UserHistories:
    """The events of all users at one moment.

    Attributes:
        items: item rows [n], int32, by user, oldest first.
        offsets: [U + 1], int64; ``items[offsets[u]:offsets[u + 1]]`` are the events of user row u.
        as_of: time of the latest event, in the data set's unit; 0 where there is none. The models are told
            that requests come just after it, unless the call says another time.
    """

    items: np.ndarray
    offsets: np.ndarray
    as_of: int

    @classmethod
    def of(cls, events: EventLog, keep: np.ndarray | None = None, last: int | None = None) -> UserHistories:
        """The histories in an event log.

        Args:
            events: the log.
            keep: [n] bool, the events that belong to the export (None = all).
            last: keep only each user's last so many events: a smaller bundle, but ``filter_seen`` then knows
                nothing of earlier ones. None = all.
        """
        mask = np.ones(len(events), dtype=bool) if keep is None else np.asarray(keep, dtype=bool)
        if mask.shape != (len(events),):
            raise ValueError(f"keep has shape {mask.shape}, but there are {len(events)} events")
        if last is not None:
            if last < 1:
                raise ValueError(f"last must be at least 1, got {last}")
            before = np.concatenate([[0], np.cumsum(mask)])
            # events of the same user kept at or after this one
            following = before[events.offsets[1:]][events.user] - before[:-1]
            mask &= following <= last
        before = np.concatenate([[0], np.cumsum(mask)]).astype(np.int64)
        times = events.time[mask]
        return cls(
            events.item[mask].astype(np.int32),
            before[events.offsets],
            int(times.max()) if len(times) else 0,
        )

    def lengths(self, users: np.ndarray) -> np.ndarray:
        """Number of events of user rows [B], int64."""
        return self.offsets[users + 1] - self.offsets[users]

    def gather(self, users: np.ndarray, length: int | None) -> np.ndarray:
        """The last ``length`` items of user rows [B] (None = all): [B, L or E], as in ``last_items``."""
        return last_items(self.items, self.offsets[users], self.offsets[users + 1], length)
