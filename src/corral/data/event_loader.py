"""Single train events with their histories, shuffled: for models that encode one query per example."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from corral.data.batches import Batch, Query
from corral.data.dataset import Dataset
from corral.data.split import Part, Split


class EventLoader:
    """Batches of (query, clicked item) over the train events, in an order that depends on (seed, epoch) only.

    Args:
        dataset: the events.
        split: only train events are used; its history rule says what a history holds.
        history_length: L of the queries.
        batch_size: B.
        seed: of the shuffle.
        max_per_user: train on at most so many events of a user in an epoch, drawn anew each time; 0: on all.
        label: label of each event of the log [n], float32; None: every event is a click.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        *,
        history_length: int,
        batch_size: int,
        seed: int,
        max_per_user: int = 0,
        label: np.ndarray | None = None,
    ) -> None:
        self._events = dataset.events
        self._rows = split.rows(Part.TRAIN)
        self._histories = split.histories(dataset)
        self._history_length, self._batch_size, self._seed, self._label = history_length, batch_size, seed, label
        self._max_per_user = max_per_user

    def batches_per_epoch(self) -> int:
        """Batches of every epoch; the last may be smaller."""
        examples = len(self._rows)
        if self._max_per_user:
            examples = int(np.bincount(self._events.user[self._rows]).clip(max=self._max_per_user).sum())
        return -(-examples // self._batch_size)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from ``first_batch`` on."""
        order = np.random.default_rng((self._seed, epoch)).permutation(self._rows)
        if self._max_per_user:
            order = order[_place_among_equals(self._events.user[order]) < self._max_per_user]
        for start in range(first_batch * self._batch_size, len(order), self._batch_size):
            yield self.batch(order[start : start + self._batch_size])

    def batch(self, rows: np.ndarray) -> Batch:
        """The examples at event rows ``rows`` [B]."""
        user = self._events.user[rows].astype(np.int64)
        history = self._histories.gather(user, self._histories.ends(rows), self._history_length)
        query = Query(
            torch.from_numpy(user), torch.from_numpy(rows), history, torch.from_numpy(self._events.time[rows])
        )
        label = np.ones(len(rows), dtype=np.float32) if self._label is None else self._label[rows]
        return Batch(query, torch.from_numpy(self._events.item[rows].astype(np.int64)), torch.from_numpy(label))


def _place_among_equals(values: np.ndarray) -> np.ndarray:
    """How many equal values come before each [n], int64."""
    order = np.argsort(values, kind="stable")
    place = np.empty(len(values), dtype=np.int64)
    sorted_values = values[order]
    first = np.searchsorted(sorted_values, sorted_values, side="left")
    place[order] = np.arange(len(values)) - first
    return place
