"""AskedRows: (user, item, time) triples whose inputs are asked for, the same ones in every copy of a data set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from corral.data.dataset import Dataset
from corral.data.examples import Examples, history_ends, impression_parts
from corral.data.split import Part, Split


@dataclass(frozen=True)
class AskedRows:
    """Clicks and impressions whose inputs are asked for.

    Attributes:
        user: user rows [n].
        item: item rows [n].
        time: [n], int64.
        event: rows of the event log [n], int64; -1 for impressions.
        shown: rows of the impressions [n], int64; -1 for clicks.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    event: np.ndarray
    shown: np.ndarray

    def __len__(self) -> int:
        return len(self.item)

    @classmethod
    def draw(cls, dataset: Dataset, split: Split, part: Part, count: int, seed: int) -> AskedRows:
        """At most ``count`` clicks and as many impressions of a part, drawn from ``seed``."""
        random = np.random.default_rng((seed, int(part)))

        def some(rows: np.ndarray) -> np.ndarray:
            return rows if len(rows) <= count else np.sort(random.choice(rows, count, replace=False))

        clicks = some(split.rows(part))
        shown = some(np.flatnonzero(impression_parts(dataset, split) == part))
        logs = [(dataset.events, clicks)] + ([] if dataset.impressions is None else [(dataset.impressions, shown)])
        user, item, time = (
            np.concatenate([np.asarray(getattr(log, name)[rows]) for log, rows in logs])
            for name in ("user", "item", "time")
        )
        none = (np.full(len(shown), -1), np.full(len(clicks), -1))
        return cls(user, item, time, np.concatenate([clicks, none[0]]), np.concatenate([none[1], shown]))

    def at(self, position: int) -> AskedRows:
        """One of the rows."""
        chosen = slice(position, position + 1)
        columns = (self.user, self.item, self.time, self.event, self.shown)
        return AskedRows(*(column[chosen] for column in columns))

    def examples(self, dataset: Dataset, split: Split, moved: np.ndarray | None = None) -> Examples:
        """The rows as examples of a data set, with their histories looked up there; labels are 0.

        Args:
            dataset: the one that rows were drawn from, or a copy of it.
            split: its parts.
            moved: where each event row of the original stands in the copy [N]; None: where it stood.
        """
        histories, clicks = split.histories(dataset), self.event >= 0
        event = self.event.copy()
        if moved is not None:
            event[clicks] = moved[self.event[clicks]]
        end = np.zeros(len(self), dtype=np.int64)
        end[clicks] = histories.ends(event[clicks])
        end[~clicks] = history_ends(dataset.events, histories, self.user[~clicks], self.time[~clicks])
        return Examples(self.user, self.item, self.time, event, end, np.zeros(len(self), dtype=np.float32), histories)
