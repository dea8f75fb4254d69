"""Sampled negatives as labelled examples: for click training on logs that hold positives only.

They take the place of what was shown and not clicked where nobody wrote that down. They are part of the data, as a
file of them would be: the same for every system and every run, given data, split and their own seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from corral.data.dataset import Dataset
from corral.data.examples import Examples
from corral.data.split import Part, Split

# Draws that may fail before the events that are left to a row are listed one by one.
_TRIES = 256
# Positives that are drawn for at a time: what it takes beside the result does not grow with the log.
_PIECE = 1 << 20


def with_sampled_negatives(
    examples: Examples, dataset: Dataset, split: Split, part: Part, *, per_positive: int, seed: int = 0
) -> Examples:
    """The examples, and after them ``per_positive`` items with label 0 for each one with a label above 0.

    A negative has its positive's user, time, history and weight; its event is -1. Items are drawn with replacement, in
    proportion to their train events **strictly before that time**, from all that are neither the positive's item nor
    an item that the user has a train event of. What the log did not have yet cannot have been passed over: drawn from
    all of train, negatives of early rows would be items of the future, told from clicks by their age alone. A positive
    gets none where no item is left: the first of the log, or a user's who has had every item.

    Cost: O(n log(train events)) expected; O(train events) more for a user who has had all but a hundredth of the log.

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
    log = _TrainLog.of(dataset, split)
    pieces: list[np.ndarray] = []
    for number, piece in enumerate(np.split(positive, range(_PIECE, len(positive), _PIECE))):
        wanted = (examples.user, examples.item, examples.time)
        user, item, time = (np.asarray(column[piece]).astype(np.int64) for column in wanted)
        random = np.random.default_rng((seed, int(part), number))
        pieces.append(log.draw(user, item, time, per_positive, random).astype(examples.item.dtype))
    drawn = np.concatenate(pieces)
    source = positive[np.nonzero(drawn)[0]]
    added = (
        examples.user[source],
        drawn[drawn > 0],
        examples.time[source],
        np.full(len(source), -1, dtype=np.int64),
        examples.end[source],
        np.zeros(len(source), dtype=np.float32),
    )
    known = (examples.user, examples.item, examples.time, examples.event, examples.end, examples.label)
    user, item, time, event, end, label = (np.concatenate(pair) for pair in zip(known, added, strict=True))
    weight = None if examples.weight is None else np.concatenate([examples.weight, examples.weight[source]])
    return Examples(user, item, time, event, end, label, examples.histories, weight)


@dataclass(frozen=True)
class _TrainLog:
    """Train events to draw from.

    Attributes:
        item, time: of each, in order of time [n].
        pairs: user * rows + item of every (user, item) there, ascending.
        items: the distinct items, ascending.
        rows: of the item vocabulary.
    """

    item: np.ndarray
    time: np.ndarray
    pairs: np.ndarray
    items: np.ndarray
    rows: int

    @classmethod
    def of(cls, dataset: Dataset, split: Split) -> _TrainLog:
        train = split.rows(Part.TRAIN)
        user, item, time = (
            np.asarray(column[train]).astype(np.int64)
            for column in (dataset.events.user, dataset.events.item, dataset.events.time)
        )
        # By item where times are equal: the order in which the rows stand says nothing.
        order = np.lexsort((item, time))
        pairs = np.unique(user * dataset.n_items + item)
        return cls(item[order], time[order], pairs, np.unique(item), dataset.n_items)

    def draw(
        self,
        user: np.ndarray,
        own: np.ndarray,
        time: np.ndarray,
        each: int,
        random: np.random.Generator,
        tries: int = _TRIES,
    ) -> np.ndarray:
        """Items [n, each], int64; 0 where there was none to draw.

        An event before the time is drawn, and another one where its item may not be.

        Args:
            user: user rows [n].
            own: an item row that is left out besides [n].
            time: only events strictly before it are drawn [n].
            each: draws.
            random: of the draws. It makes numbers for every row at every try: what one user had moves no other user's.
            tries: so many, then the events that are left are listed.
        """
        before = np.searchsorted(self.time, time, side="left")
        before[self._nothing_left(user, own)] = 0
        found = np.zeros((len(user), each), dtype=np.int64)
        open_row, open_column = np.nonzero(np.broadcast_to(before[:, None] > 0, found.shape))
        for _ in range(tries):
            if not len(open_row):
                return found
            uniform = random.random(found.shape)[open_row, open_column]
            item = self.item[(uniform * before[open_row]).astype(np.int64)]
            refused = (item == own[open_row]) | self._had(user[open_row], item)
            found[open_row[~refused], open_column[~refused]] = item[~refused]
            open_row, open_column = open_row[refused], open_column[refused]
        if len(open_row):
            uniform = random.random(found.shape)[open_row, open_column]
            found[open_row, open_column] = self._listed(user[open_row], own[open_row], before[open_row], uniform)
        return found

    def _nothing_left(self, user: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Whether every item of the log is the user's or the row's own [n]: no try would find another."""
        had = np.diff(np.searchsorted(self.pairs, np.stack([user, user + 1]) * self.rows), axis=0)[0]
        return had + (np.isin(own, self.items) & ~self._had(user, own)) >= len(self.items)

    def _had(self, user: np.ndarray | np.int64, item: np.ndarray) -> np.ndarray:
        """Whether there is an event of each (user, item) [n]."""
        pair = user * self.rows + item
        if not len(self.pairs):
            return np.zeros(len(pair), dtype=bool)
        return self.pairs.take(np.searchsorted(self.pairs, pair), mode="clip") == pair

    def _listed(self, user: np.ndarray, own: np.ndarray, before: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """One draw [n] of the events that are left to each row, all listed; 0 where there are none.

        Args:
            user, own: as in :meth:`draw` [n].
            before: how many events are before the row's time [n].
            uniform: in [0, 1) [n].
        """
        found = np.zeros(len(user), dtype=np.int64)
        askers, asker = np.unique(user * self.rows + own, return_inverse=True)
        rows_of = np.split(np.argsort(asker, kind="stable"), np.cumsum(np.bincount(asker))[:-1])
        for pair, rows in zip(askers.tolist(), rows_of, strict=True):
            one, item = divmod(pair, self.rows)
            left = np.flatnonzero((self.item != item) & ~self._had(np.int64(one), self.item))
            known = np.searchsorted(left, before[rows])
            rows, known = rows[known > 0], known[known > 0]
            found[rows] = self.item[left[(uniform[rows] * known).astype(np.int64)]]
        return found
