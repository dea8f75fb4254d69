"""Sampled negatives as labelled examples: for click training on logs that hold positives only.

They take the place of what was shown and not clicked where nobody wrote that down. They are part of the data, as a
file of them would be: the same for every system and every run, given data, split and their own seed.
"""

from __future__ import annotations

import numpy as np

from corral.data.dataset import Dataset
from corral.data.examples import Examples
from corral.data.split import Part, Split


def with_sampled_negatives(
    examples: Examples, dataset: Dataset, split: Split, part: Part, *, per_positive: int, seed: int = 0
) -> Examples:
    """The examples, and after them ``per_positive`` items with label 0 for each one with a label above 0.

    A negative has its positive's user, time, history and weight; its event is -1. Items are drawn with replacement, in
    proportion to their train events, from all that are neither the positive's item nor an item that the user has a
    train event of. Positives whose user has had every item get none.

    Draws are exact and need no second try: by inversion of the cumulative counts of the items that are left.
    Cost: O((n + train events) log(train events)).

    Args:
        examples: of the part.
        dataset: the events.
        split: only its train events say what is popular, and what a user had.
        part: of the examples; each part has draws of its own.
        per_positive: negatives for each positive.
        seed: of the draws; together with the part it fixes them.
    """
    if per_positive < 1:
        raise ValueError(f"per_positive={per_positive}: must be at least 1")
    positive = np.flatnonzero(examples.label > 0)
    counts = split.train_counts(dataset)
    train = split.rows(Part.TRAIN)
    left_out = _LeftOut(counts, dataset.events.user[train], dataset.events.item[train])
    user, own = (np.asarray(column[positive]).astype(np.int64) for column in (examples.user, examples.item))
    # Plain uniform numbers, the same for each place in the part: what one user had moves no other user's draws.
    uniform = np.random.default_rng((seed, int(part))).random((len(positive), per_positive))
    item, drawn = left_out.draw(user, own, uniform)
    row, _ = np.nonzero(drawn)
    source = positive[row]
    added = (
        examples.user[source],
        item[drawn].astype(examples.item.dtype),
        examples.time[source],
        np.full(len(source), -1, dtype=np.int64),
        examples.end[source],
        np.zeros(len(source), dtype=np.float32),
    )
    known = (examples.user, examples.item, examples.time, examples.event, examples.end, examples.label)
    user, item, time, event, end, label = (np.concatenate(pair) for pair in zip(known, added, strict=True))
    weight = None if examples.weight is None else np.concatenate([examples.weight, examples.weight[source]])
    return Examples(user, item, time, event, end, label, examples.histories, weight)


class _LeftOut:
    """Draws from item counts with the items of a user left out.

    Think of every train event as one slot, item after item. The slots of the items that are left are numbered
    through; a number drawn among them becomes a slot of the whole by stepping over the slots left out before it.

    Args:
        counts: of each item row [M + 2].
        user: users of the train events [n].
        item: their items [n].
    """

    def __init__(self, counts: np.ndarray, user: np.ndarray, item: np.ndarray) -> None:
        self._counts = counts.astype(np.int64)
        self._after = np.cumsum(self._counts)  # slots up to and including each item
        self._before = self._after - self._counts
        self._rows = len(counts)
        self._pairs = np.unique(user.astype(np.int64) * self._rows + item)  # (user, item) left out, in order
        owner, had = np.divmod(self._pairs, self._rows)
        self._taken = np.concatenate([[0], np.cumsum(self._counts[had])])
        left_before = self._before[had] - self._taken_by(owner, np.arange(len(owner)))
        # Ascending within a user, users ascending: one search finds the place within a user.
        self._span = int(self._after[-1]) + 1
        self._keys = owner * self._span + left_before

    def _taken_by(self, user: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Slots of the user's pairs before position ``at`` in the list of pairs."""
        return self._taken[at] - self._taken[np.searchsorted(self._pairs, user * self._rows)]

    def draw(self, user: np.ndarray, own: np.ndarray, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Items [n, k], int64, and whether there was one to draw [n, k].

        Args:
            user: user rows [n].
            own: an item row that is left out besides [n].
            uniform: numbers in [0, 1) [n, k].
        """
        end = np.searchsorted(self._pairs, (user + 1) * self._rows)
        key = user * self._rows + own
        at = np.searchsorted(self._pairs, key)
        had = self._pairs.take(at, mode="clip") == key if len(self._pairs) else np.zeros(len(key), dtype=bool)
        extra = np.where(had, 0, self._counts[own])
        # Where the row's own item stands among the slots that are left.
        extra_from = self._before[own] - self._taken_by(user, at)
        left = self._after[-1] - self._taken_by(user, end) - extra
        place = np.minimum((uniform * left[:, None]).astype(np.int64), left[:, None] - 1)
        place += np.where(place >= extra_from[:, None], extra[:, None], 0)
        # Pairs with no more slots left before them than the place stand before it.
        passed = np.searchsorted(self._keys, user[:, None] * self._span + place, side="right")
        slot = place + self._taken_by(np.broadcast_to(user[:, None], passed.shape), passed)
        drawn = np.broadcast_to(left[:, None] > 0, slot.shape)
        return np.searchsorted(self._after, np.where(drawn, slot, 0), side="right"), drawn
