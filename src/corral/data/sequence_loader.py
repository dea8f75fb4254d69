"""Windows of user sequences for causal retrievers, shuffled, one query at every position."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from corral.data.batches import SequenceBatch
from corral.data.dataset import Dataset
from corral.data.split import Split
from corral.data.train_rows import TrainRows

_BATCHES_PER_BUCKET = 32  # windows are sorted by length within so many batches: little padding, still shuffled


class SequenceLoader:
    """Cuts every user's train events into windows of at most ``length`` events and batches them.

    A user with more events gets several windows; where they are cut moves from epoch to epoch, so that no
    event stays at the edge of a window. What an epoch holds depends on (seed, epoch) only, so training can
    resume at any batch.

    All windows of an epoch are shuffled at once, wherever their users stand in the log, and each is gathered from the
    memory-mapped log when its batch is made: in memory are about 60 bytes a window and 50 a user, and of an event what
    ``TrainRows`` says.

    Args:
        dataset: the events.
        split: only train events are used.
        length: L, the largest window.
        batch_size: windows per batch.
        seed: of the shuffle and the cuts.
    """

    def __init__(self, dataset: Dataset, split: Split, *, length: int, batch_size: int, seed: int) -> None:
        if length < 2:
            raise ValueError(f"length={length}: a window needs at least 2 events")
        self._events = dataset.events
        self._train = TrainRows.of(dataset, split)
        self._start = self._train.start
        self._length, self._batch_size, self._seed = length, batch_size, seed

    def _windows(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(user, first, stop) of every window of an epoch; positions count train events."""
        start, stop = self._start[:-1], self._start[1:]
        users = np.flatnonzero(stop - start > 0)
        size = (stop - start)[users]
        # Cuts lie at shift, shift + L, ...; a user who fits in one window is not cut.
        shift = np.where(size > self._length, generator.integers(0, self._length, len(users)), 0)
        pieces = np.where(size > self._length, -(-(size - shift) // self._length) + (shift > 0), 1)
        user = np.repeat(users, pieces)
        piece = np.arange(len(user)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        shift, size = np.repeat(shift, pieces), np.repeat(size, pieces)
        first = np.where(shift > 0, shift + (piece - 1) * self._length, piece * self._length).clip(min=0)
        last = np.where(shift > 0, shift + piece * self._length, (piece + 1) * self._length)
        return user, start[user] + first, start[user] + np.minimum(last, size)

    def batches_per_epoch(self) -> int:
        """Batches of epoch 0 (later epochs differ by a few windows)."""
        user, _, _ = self._windows(np.random.default_rng((self._seed, 0)))
        return -(-len(user) // self._batch_size)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[SequenceBatch]:
        """The batches of an epoch from ``first_batch`` on."""
        generator = np.random.default_rng((self._seed, epoch))
        user, first, stop = self._windows(generator)
        order = generator.permutation(len(user))
        bucket = self._batch_size * _BATCHES_PER_BUCKET
        lengths = (stop - first)[order]
        order = order[np.lexsort((lengths, np.arange(len(order)) // bucket))]
        starts = generator.permutation(-(-len(order) // self._batch_size))[first_batch:] * self._batch_size
        for at in starts:
            chosen = order[at : at + self._batch_size]
            yield self._batch(user[chosen], first[chosen], stop[chosen])

    def _batch(self, user: np.ndarray, first: np.ndarray, stop: np.ndarray) -> SequenceBatch:
        width = int((stop - first).max())
        at = stop[:, None] + np.arange(-width, 0)
        real = at >= first[:, None]
        rows = self._train.rows(user, at)
        # Negative or within the padding where a tie group begins before the window: its query is cut off.
        query_index = self._train.ends(at, rows) - (stop[:, None] - width)
        rows = np.where(real, rows, -1)
        pad = width - (stop - first)[:, None]
        first_window = (first == self._start[user])[:, None]
        # Query `pad` has seen nothing: right for a user's first events, wrong in a later window.
        weight = self._events.weight
        target = real & ((query_index > pad) | (first_window & (query_index >= pad)))
        return SequenceBatch(
            user=torch.from_numpy(user),
            items=torch.from_numpy(np.where(real, self._events.item.take(rows, mode="clip"), 0).astype(np.int64)),
            event=torch.from_numpy(rows),
            time=torch.from_numpy(np.where(real, self._events.time.take(rows, mode="clip"), 0)),
            query_index=torch.from_numpy(np.where(real, query_index, 0).clip(min=0)),
            target_mask=torch.from_numpy(target),
            weight=None if weight is None else torch.from_numpy(np.where(real, weight.take(rows, mode="clip"), 0)),
        )
