"""What evaluation asks: queries as of an event, and the items that were then clicked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corral.data.batches import Query
from corral.data.dataset import Dataset, EventLog
from corral.data.history import HistoryIndex, HistoryRule
from corral.data.order_statistic import CHUNK_ROWS
from corral.data.split import Part, Split

# What users had before is described by so many of their events, however few of them a model reads.
DESCRIBED_EVENTS = 200


@dataclass(frozen=True)
class TargetBatch:
    """Some queries of :class:`Targets`.

    Attributes:
        query: B queries.
        exclude: items that the lists must not contain [B, E], int64, 0-padded (E may be 0).
        item: target items of all queries, one after the other [nnz], int64.
        owner: the query (0..B-1) that each target belongs to [nnz], int64.
        index: positions of the queries in the Targets [B].
        had: the last items before each query [B, D], int64, 0-padded at the front, D at most ``DESCRIBED_EVENTS``:
            whatever the model's history length, for figures that compare one system with another.
    """

    query: Query
    exclude: Tensor
    item: Tensor
    owner: Tensor
    index: np.ndarray
    had: Tensor


@dataclass(frozen=True)
class Targets:
    """Q queries with their target items. One query is one basket: all events of a user at one time
    (history rule ``strict``), or one event (``order``).

    Attributes:
        user: user rows [Q], int64.
        event: first event row of each basket [Q], int64.
        time: [Q], int64.
        end: where the history ends in the history index [Q], int64.
        offsets: [Q + 1], int64; ``items[offsets[q]:offsets[q+1]]`` are the targets of q, unique.
        items: item rows, int64.
        histories: the index that histories come from.
        history_length: L of the queries.
        repeats: whether items the user already had may be recommended and counted.
        dropped_repeats: target events dropped because the user already had the item (``repeats=False``).
        later_too: what the user has in the histories after the query counts as had, too: by splits that are not by
            time a model learns from it, and would be judged by how little it gives back.
    """

    user: np.ndarray
    event: np.ndarray
    time: np.ndarray
    end: np.ndarray
    offsets: np.ndarray
    items: np.ndarray
    histories: HistoryIndex
    history_length: int
    repeats: bool
    dropped_repeats: int
    later_too: bool

    def __len__(self) -> int:
        return len(self.user)

    def batches(self, size: int) -> Iterator[TargetBatch]:
        """Batches of at most ``size`` queries, in order."""
        for start in range(0, len(self), size):
            yield self.batch(np.arange(start, min(start + size, len(self))))

    def batch(self, index: np.ndarray) -> TargetBatch:
        """The queries at positions ``index`` [B] (ascending runs are fastest)."""
        user, end = self.user[index], self.end[index]
        counts = self.offsets[index + 1] - self.offsets[index]
        owner = np.repeat(np.arange(len(index)), counts)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        history = self.histories.gather(user, end, self.history_length)
        query = Query(
            torch.from_numpy(user), torch.from_numpy(self.event[index]), history, torch.from_numpy(self.time[index])
        )
        before = self.histories.offsets[user]
        last = self.histories.offsets[user + 1] if self.later_too else end
        longest = 0 if self.repeats else int((last - before).max(initial=0))
        return TargetBatch(
            query,
            self.histories.gather(user, last, longest),
            torch.from_numpy(self.items[np.repeat(self.offsets[index], counts) + within]),
            torch.from_numpy(owner),
            index,
            self.histories.gather(user, end, min(DESCRIBED_EVENTS, int((end - before).max(initial=0)))),
        )

    def sample(self, queries: int, seed: int) -> Targets:
        """At most ``queries`` of the queries, drawn once from ``seed`` (for cheap validation)."""
        if queries >= len(self):
            return self
        return self.only(np.sort(np.random.default_rng(seed).choice(len(self), queries, replace=False)))

    def only(self, keep: np.ndarray) -> Targets:
        """The queries at positions ``keep``, ascending int64."""
        counts = np.diff(self.offsets)[keep]
        rows = np.repeat(self.offsets[keep], counts) + (
            np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        )
        return Targets(
            self.user[keep],
            self.event[keep],
            self.time[keep],
            self.end[keep],
            np.concatenate([[0], np.cumsum(counts)]),
            self.items[rows],
            self.histories,
            self.history_length,
            self.repeats,
            self.dropped_repeats,
            self.later_too,
        )


def _had_before(
    events: EventLog, n_items: int, rows: np.ndarray, basket: np.ndarray, keep: np.ndarray | None
) -> Iterator[np.ndarray]:
    """Whether the user had the item of ``rows`` [R] in an event before ``basket`` [R]: bool, some rows at a time.

    Where ``keep`` is given, in any event that it marks: what is left out of lists by ``Targets.later_too``.
    """
    offsets, done = events.offsets, 0
    while done < len(rows):
        # The events of some users at a time, of one at least.
        user = int(events.user[rows[done]])
        stop = max(int(np.searchsorted(offsets, offsets[user] + CHUNK_ROWS, side="right")) - 1, user + 1)
        low, high = int(offsets[user]), int(offsets[stop])
        chosen = slice(done, int(np.searchsorted(rows, high)))
        yield _had_within(events, n_items, slice(low, high), rows[chosen], basket[chosen], keep)
        done = chosen.stop


def _had_within(
    events: EventLog, n_items: int, span: slice, rows: np.ndarray, basket: np.ndarray, keep: np.ndarray | None
) -> np.ndarray:
    """``_had_before`` for rows of users all of whose events are in ``span``."""
    key = events.user[span].astype(np.int64) * n_items + events.item[span]
    seen = np.arange(len(key)) if keep is None else np.flatnonzero(keep[span])
    if len(seen) == 0:
        return np.zeros(len(rows), dtype=bool)
    pairs, first = np.unique(key[seen], return_index=True)
    wanted = key[rows - span.start]
    at = np.searchsorted(pairs, wanted).clip(max=len(pairs) - 1)
    had: np.ndarray = pairs[at] == wanted
    return had if keep is not None else had & (first[at] + span.start < basket)


def _repeats(dataset: Dataset, split: Split, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Whether event ``rows`` [R], ascending, are of items that the user had before: bool, some rows at a time."""
    keep = split.part == Part.TRAIN if split.train_history_only else None
    return _had_before(dataset.events, dataset.n_items, rows, _baskets(dataset, split, rows), keep)


def _baskets(dataset: Dataset, split: Split, rows: np.ndarray) -> np.ndarray:
    """The first event row of the basket of each of ``rows`` [R]."""
    return rows - dataset.events.ties[rows] if split.history_rule is HistoryRule.STRICT else rows


def has_targets(dataset: Dataset, split: Split, part: Part, *, repeats: bool) -> bool:
    """Whether ``targets`` gives any; it reads no further than to the first one."""
    rows = split.rows(part)
    return len(rows) > 0 if repeats else any(not had.all() for had in _repeats(dataset, split, rows))


def targets(dataset: Dataset, split: Split, part: Part, *, history_length: int, repeats: bool = False) -> Targets:
    """The queries and targets of a part.

    Histories are as of each query: everything the split's history rule allows, later parts included
    only where they lie strictly before it.

    Args:
        dataset: the events.
        split: their parts.
        part: VALID or TEST.
        history_length: L.
        repeats: False (default): items the user had before are excluded from lists and from targets;
            True: repeats are recommended and counted.
    """
    events, histories = dataset.events, split.histories(dataset)
    rows = split.rows(part)
    basket = _baskets(dataset, split, rows)
    dropped = 0
    if not repeats:
        new = ~np.concatenate([np.zeros(0, dtype=bool), *_repeats(dataset, split, rows)])
        dropped = int((~new).sum())
        rows, basket = rows[new], basket[new]
    item = events.item[rows].astype(np.int64)
    # One target per (basket, item): quantities and double clicks are one event here.
    unique = np.unique(np.stack([basket, item]), axis=1)
    event, start = np.unique(unique[0], return_index=True)
    return Targets(
        user=events.user[event].astype(np.int64),
        event=event,
        time=np.asarray(events.time[event]),
        end=histories.ends(event),
        offsets=np.append(start, unique.shape[1]),
        items=np.ascontiguousarray(unique[1]),
        histories=histories,
        history_length=history_length,
        repeats=repeats,
        dropped_repeats=dropped,
        later_too=split.train_history_only,
    )
