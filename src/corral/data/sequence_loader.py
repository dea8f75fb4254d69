"""Windows of user sequences for causal retrievers, shuffled, one query at every position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from corral.data.batches import SequenceBatch
from corral.data.dataset import Dataset
from corral.data.split import Split
from corral.data.train_rows import TrainRows

_BATCHES_PER_BUCKET = 32  # windows are sorted by length within so many batches: little padding, still shuffled


@dataclass(frozen=True)
class _Windows:
    """Windows of an epoch; positions count train events, as in ``TrainRows``.

    Attributes:
        user: user rows [W], int64.
        context: how many events before the targets it holds [W], int64.
        first, stop: its targets are [first, stop), int64 [W] each.
    """

    user: np.ndarray
    context: np.ndarray
    first: np.ndarray
    stop: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def __getitem__(self, chosen: np.ndarray) -> _Windows:
        return _Windows(self.user[chosen], self.context[chosen], self.first[chosen], self.stop[chosen])

    @property
    def size(self) -> np.ndarray:
        """Events of each window [W], int64."""
        return self.context + self.stop - self.first


class SequenceLoader:
    """Cuts every user's train events into windows of at most ``length`` events and batches them.

    A user with more events gets several windows; where they are cut moves from epoch to epoch, so that no
    event stays at the edge of a window. What an epoch holds depends on (seed, epoch) only, so training can
    resume at any batch.

    An event is a target where its query, the last event that it may see, lies in its window.
    **Baskets** (events of one moment, which may not see each other) are kept whole, and windows overlap by twice the
    user's largest basket, half a window at most: of a user with baskets every event is a target once an epoch, however
    late in its basket it lies. A basket of more than a quarter of a window may be cut into pieces, each behind the
    events before the basket. Without baskets windows do not overlap, and each but a user's first one leaves out one
    event, its first.

    All windows of an epoch are shuffled at once, wherever their users stand in the log, and each is gathered from the
    memory-mapped log when its batch is made: in memory are about 70 bytes a window and 60 a user, and of an event what
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
        most = self._train.most_at_once()
        self._overlap = np.where(most > 1, np.minimum(2 * most, length // 2), 0)

    def _windows(self, generator: np.random.Generator) -> _Windows:
        """Every window of an epoch."""
        start, stop = self._start[:-1], self._start[1:]
        users = np.flatnonzero(stop - start > 0)
        size, stride = (stop - start)[users], self._length - self._overlap[users]
        # Cuts lie at shift, shift + stride, ...; a user who fits in one window is not cut.
        cut = size > self._length
        shift = np.where(cut, generator.integers(0, self._length, len(users)) * stride // self._length, 0)
        pieces = np.where(cut, -(-(size - shift) // stride) + (shift > 0), 1)
        user, overlap = np.repeat(users, pieces), np.repeat(self._overlap[users], pieces)
        piece = np.arange(len(user)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        shift, stride = np.repeat(shift, pieces), np.repeat(stride, pieces)
        first = start[user] + np.where(shift > 0, shift + (piece - 1) * stride, piece * stride).clip(min=0)
        # A cut goes back to where its basket begins, unless that would leave less than half the overlap before it.
        seen = self._seen(user, first)
        first = np.where(2 * (first - seen) < overlap, seen, first)
        end = np.where(np.roll(piece, -1) == 0, stop[user], np.roll(first, -1))
        seen = np.minimum(seen, first)
        context = np.where(overlap > 0, np.minimum(self._length - (end - first), seen - start[user]), 0)
        return _Windows(user, context, first, end)[end > first]

    def _seen(self, user: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Just after the last event that those at positions ``at`` [W] may see [W], int64."""
        return self._train.ends(at[:, None], self._train.rows(user, at[:, None]))[:, 0]

    def batches_per_epoch(self) -> int:
        """Batches of epoch 0 (later epochs differ by a few windows)."""
        return -(-len(self._windows(np.random.default_rng((self._seed, 0)))) // self._batch_size)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[SequenceBatch]:
        """The batches of an epoch from ``first_batch`` on."""
        generator = np.random.default_rng((self._seed, epoch))
        windows = self._windows(generator)
        order = generator.permutation(len(windows))
        bucket = self._batch_size * _BATCHES_PER_BUCKET
        order = order[np.lexsort((windows.size[order], np.arange(len(order)) // bucket))]
        starts = generator.permutation(-(-len(order) // self._batch_size))[first_batch:] * self._batch_size
        for at in starts:
            yield self._batch(windows[order[at : at + self._batch_size]])

    def _batch(self, windows: _Windows) -> SequenceBatch:
        user, size = windows.user, windows.size
        first, stop, width = windows.first[:, None], windows.stop[:, None], int(size.max())
        slot = np.arange(width)
        pad = (width - size)[:, None]
        real = slot >= pad
        # Of a basket in pieces, those between the context and this piece are left out.
        hole = first - self._seen(user, windows.first)[:, None]
        at = stop - width + slot
        in_targets = at >= first
        at = np.where(in_targets, at, at - hole)
        rows = self._train.rows(user, at)
        # Negative or within the padding where what may be seen ends before the window: its query is cut off.
        ends = self._train.ends(at, rows)
        query_index = np.where(ends < first, ends + hole, ends) - (stop - width)
        rows = np.where(real, rows, -1)
        # Query `pad` has seen nothing: right for a user's first events, wrong in a later window.
        begins = first - hole - windows.context[:, None] == self._start[user][:, None]
        weight = self._events.weight
        target = real & in_targets & ((query_index > pad) | (begins & (query_index >= pad)))
        return SequenceBatch(
            user=torch.from_numpy(user),
            items=torch.from_numpy(np.where(real, self._events.item.take(rows, mode="clip"), 0).astype(np.int64)),
            event=torch.from_numpy(rows),
            time=torch.from_numpy(np.where(real, self._events.time.take(rows, mode="clip"), 0)),
            query_index=torch.from_numpy(np.where(real, query_index, 0).clip(min=0)),
            target_mask=torch.from_numpy(target),
            weight=None if weight is None else torch.from_numpy(np.where(real, weight.take(rows, mode="clip"), 0)),
        )
