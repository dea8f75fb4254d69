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
_NEVER, _ALWAYS = np.iinfo(np.int64).min, np.iinfo(np.int64).max


def with_sampled_negatives(
    examples: Examples,
    dataset: Dataset,
    split: Split,
    part: Part,
    *,
    per_positive: int,
    repeats: bool = False,
    seed: int = 0,
) -> Examples:
    """The examples, and after them ``per_positive`` items with label 0 for each one with a label above 0.

    A negative has its positive's user, time, history and weight; its event is -1. Items are drawn with replacement, in
    proportion to their train events **strictly before that time**. What the log did not have yet cannot have been
    passed over: drawn from all of train, negatives of early rows would be items of the future, told from clicks by
    their age alone. Never drawn is what the user has a train event of, or one of this part, or has in the row's
    history; with ``repeats`` only what he takes at that time or later, since what he had before may be taken again.

    **Positives that could not be negatives are left out**: those of an item without an earlier train event and, without
    ``repeats``, of one in the row's own history. All rows that an input tells to be like them would be clicks: the
    input would be the label. A positive gets no negative where no item is left: of a user who has had every item.

    Cost: O(n log(train events)) expected; O(train events) more for a row that is refused all but a hundredth of it.

    Args:
        examples: of the part.
        dataset: the events.
        split: only its train events say what is popular.
        part: of the examples; each part has draws of its own.
        per_positive: negatives for each positive.
        repeats: whether an item that the user had before may be clicked again.
        seed: of the draws; together with the part it fixes them.
    """
    if per_positive < 1:
        raise ValueError(f"per_positive={per_positive}: must be at least 1")
    log = _Log.of(examples, dataset, split, repeats)
    examples = examples.at(np.flatnonzero((examples.label <= 0) | log.drawable(*_asked(examples))))
    positive = np.flatnonzero(examples.label > 0)
    pieces: list[np.ndarray] = []
    for number, piece in enumerate(np.split(positive, range(_PIECE, len(positive), _PIECE))):
        user, _, time, end = _asked(examples.at(piece))
        random = np.random.default_rng((seed, int(part), number))
        pieces.append(log.draw(user, time, end, per_positive, random).astype(examples.item.dtype))
    drawn = np.concatenate(pieces)
    source = positive[np.nonzero(drawn)[0]]
    added: tuple[np.ndarray, ...] = (
        examples.user[source],
        drawn[drawn > 0],
        examples.time[source],
        np.full(len(source), -1, dtype=np.int64),
        examples.end[source],
        np.zeros(len(source), dtype=np.float32),
    )
    known: tuple[np.ndarray, ...] = (
        examples.user,
        examples.item,
        examples.time,
        examples.event,
        examples.end,
        examples.label,
    )
    user, item, time, event, end, label = (np.concatenate(pair) for pair in zip(known, added, strict=True))
    weight = None if examples.weight is None else np.concatenate([examples.weight, examples.weight[source]])
    return Examples(user, item, time, event, end, label, examples.histories, weight)


def _asked(examples: Examples) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """User, item, time and end of the history of each [n], int64."""
    user, item, time, end = (
        np.asarray(column).astype(np.int64) for column in (examples.user, examples.item, examples.time, examples.end)
    )
    return user, item, time, end


@dataclass(frozen=True)
class _Pairs:
    """Distinct (user, item) pairs, each with a number.

    Attributes:
        keys: user * rows + item, ascending [p].
        values: of each [p], int64.
        rows: of the item vocabulary.
    """

    keys: np.ndarray
    values: np.ndarray
    rows: int

    def of(self, user: np.ndarray | np.int64, item: np.ndarray, absent: int) -> np.ndarray:
        """The number of each pair [n]; ``absent`` where there is none."""
        wanted = user * self.rows + item
        if not len(self.keys):
            return np.full(len(wanted), absent)
        place = np.searchsorted(self.keys, wanted)
        there = self.keys.take(place, mode="clip") == wanted
        return np.where(there, self.values.take(place, mode="clip"), absent)


@dataclass(frozen=True)
class _Log:
    """Train events to draw from, and what each row may not be given.

    Attributes:
        item, time: of the train events, in order of time [n].
        born: the first train event's time of each item row; ``_ALWAYS`` without one.
        taken: until when each pair of train, and of the positives asked for, is refused; items of train alone.
        history: the first place in the histories of each pair there; none with ``repeats``.
        repeats: whether what a user had may be drawn for him.
    """

    item: np.ndarray
    time: np.ndarray
    born: np.ndarray
    taken: _Pairs
    history: _Pairs
    repeats: bool

    @classmethod
    def of(cls, examples: Examples, dataset: Dataset, split: Split, repeats: bool) -> _Log:
        train, rows, histories = split.rows(Part.TRAIN), dataset.n_items, examples.histories
        user, item, time = (
            np.asarray(column[train]).astype(np.int64)
            for column in (dataset.events.user, dataset.events.item, dataset.events.time)
        )
        born = np.full(rows, _ALWAYS)
        np.minimum.at(born, item, time)
        positive = np.flatnonzero(examples.label > 0)
        their_user, their_item, their_time, _ = _asked(examples.at(positive))
        keys = np.concatenate([user * rows + item, their_user * rows + their_item])
        latest = np.concatenate([time, their_time])
        known = born[keys % rows] < _ALWAYS
        keys, inverse = np.unique(keys[known], return_inverse=True)
        until = np.full(len(keys), _NEVER if repeats else _ALWAYS)
        if repeats:
            np.maximum.at(until, inverse, latest[known])
        owner = np.repeat(np.arange(len(histories.offsets) - 1), np.diff(histories.offsets))
        seen = owner[:0] if repeats else owner * rows + histories.items
        seen, first = np.unique(seen, return_index=True)
        # By item where times are equal: the order in which the rows stand says nothing.
        order = np.lexsort((item, time))
        return cls(item[order], time[order], born, _Pairs(keys, until, rows), _Pairs(seen, first, rows), repeats)

    def drawable(self, user: np.ndarray, item: np.ndarray, time: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Whether the item of each row [n] could be drawn for it, were it not taken."""
        return (self.born[item] < time) & ~self._in_history(user, item, end)

    def draw(
        self,
        user: np.ndarray,
        time: np.ndarray,
        end: np.ndarray,
        each: int,
        random: np.random.Generator,
        tries: int = _TRIES,
    ) -> np.ndarray:
        """Items [n, each], int64; 0 where there was none to draw.

        An event before the time is drawn, and another one where its item may not be.

        Args:
            user: user rows [n].
            time: only events strictly before it are drawn [n].
            end: of each row's history [n].
            each: draws.
            random: of the draws. It makes numbers for every row at every try: what one user had moves no other user's.
            tries: so many, then the events that are left are listed.
        """
        before = np.searchsorted(self.time, time, side="left")
        before[self._nothing_left(user)] = 0
        found = np.zeros((len(user), each), dtype=np.int64)
        row, column = np.nonzero(np.broadcast_to(before[:, None] > 0, found.shape))
        for _ in range(tries):
            if not len(row):
                return found
            item = self.item[(random.random(found.shape)[row, column] * before[row]).astype(np.int64)]
            refused = self._refused(user[row], item, time[row], end[row])
            found[row[~refused], column[~refused]] = item[~refused]
            row, column = row[refused], column[refused]
        uniform = random.random(found.shape)
        for one in np.unique(row).tolist():
            events = self.item[: before[one]]
            left = events[~self._refused(user[one], events, time[one], end[one])]
            if len(left):
                open_ = column[row == one]
                found[one, open_] = left[(uniform[one, open_] * len(left)).astype(np.int64)]
        return found

    def _in_history(self, user: np.ndarray | np.int64, item: np.ndarray, end: np.ndarray | np.int64) -> np.ndarray:
        return self.history.of(user, item, _ALWAYS) < end

    def _refused(
        self, user: np.ndarray | np.int64, item: np.ndarray, time: np.ndarray | np.int64, end: np.ndarray | np.int64
    ) -> np.ndarray:
        return (self.taken.of(user, item, _NEVER) >= time) | self._in_history(user, item, end)

    def _nothing_left(self, user: np.ndarray) -> np.ndarray:
        """Whether every item of the log is taken by the user for good [n]: no try would find another."""
        if self.repeats:
            return np.zeros(len(user), dtype=bool)
        had = np.diff(np.searchsorted(self.taken.keys, np.stack([user, user + 1]) * self.taken.rows), axis=0)[0]
        return had >= (self.born < _ALWAYS).sum()
