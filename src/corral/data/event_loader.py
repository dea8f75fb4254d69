"""Examples one by one with their histories, shuffled: for models that encode one query per example."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from corral.data.batches import Batch
from corral.data.clicks import Clicks
from corral.data.examples import Examples


class EventLoader:
    """Batches of examples, in an order that depends on (seed, epoch) only: a full shuffle, 4 bytes an example.

    Args:
        examples: what to batch: the train part's.
        history_length: L of the queries.
        batch_size: B.
        seed: of the shuffle.
        max_per_user: at most so many examples of a user in an epoch, drawn anew each time; 0: all.
    """

    def __init__(
        self, examples: Examples | Clicks, *, history_length: int, batch_size: int, seed: int, max_per_user: int = 0
    ) -> None:
        self._examples = examples
        self._history_length, self._batch_size, self._seed = history_length, batch_size, seed
        self._max_per_user = max_per_user

    def batches_per_epoch(self) -> int:
        """Batches of every epoch; the last may be smaller."""
        count = len(self._examples)
        if self._max_per_user:
            count = int(np.bincount(self._examples.user).clip(max=self._max_per_user).sum())
        return -(-count // self._batch_size)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from ``first_batch`` on."""
        # What ``permutation`` gives, in half the memory where it can.
        count = len(self._examples)
        order = np.arange(count, dtype=np.int32 if count < 2**31 else np.int64)
        np.random.default_rng((self._seed, epoch)).shuffle(order)
        if self._max_per_user:
            order = order[_place_among_equals(self._examples.user[order]) < self._max_per_user]
        for start in range(first_batch * self._batch_size, len(order), self._batch_size):
            yield self._examples.batch(order[start : start + self._batch_size], self._history_length)


def _place_among_equals(values: np.ndarray) -> np.ndarray:
    """How many equal values come before each [n], int64."""
    order = np.argsort(values, kind="stable")
    place = np.empty(len(values), dtype=np.int64)
    sorted_values = values[order]
    place[order] = np.arange(len(values)) - np.searchsorted(sorted_values, sorted_values, side="left")
    return place
