"""RememberedEvidence: the inputs of examples that training asks for again and again, worked out once.

Shape letters: n examples, B queries, N items per query, E inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from corral.data.batches import Batch, Query
from corral.data.whole_batch import gathered


class RememberedEvidence:
    """Evidence [n, E] of (user, item, time): nothing in evidence is learned, so it is the same in every epoch.

    Args:
        evidence: what is remembered.
        batches: the examples, each with the history that evidence is to see; of several processes each gives a share.
        on_batch: called after each batch with its size (progress).
    """

    def __init__(
        self,
        evidence: Callable[[Query, Tensor], Tensor],
        batches: Iterator[Batch],
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        columns: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for batch in batches:
            with torch.no_grad():
                inputs = evidence(batch.query, batch.item[:, None])[:, 0]
            columns.append((batch.query.user, batch.item, batch.query.time, inputs))
            on_batch(len(batch))
        user, item, time, inputs = (gathered(torch.cat(column)) for column in zip(*columns, strict=True))
        self._span = int(item.max()) + 1
        self._pairs, pair = torch.unique(user * self._span + item, return_inverse=True)
        self._times, moment = torch.unique(time, return_inverse=True)
        self._keys, order = (pair * len(self._times) + moment).sort(stable=True)
        self._inputs = inputs[order]

    def __call__(self, query: Query, items: Tensor) -> Tensor | None:
        """[B, N, E], or None where an example is not among those remembered."""
        pair, known_pair = _place(self._pairs, query.user[:, None] * self._span + items)
        moment, known_time = _place(self._times, query.time[:, None])
        at, known = _place(self._keys, pair * len(self._times) + moment)
        known &= known_pair & known_time & (items < self._span)
        return self._inputs[at] if bool(known.all()) else None


def _place(among: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Where each value stands in a sorted tensor, and whether it is there."""
    at = torch.searchsorted(among, wanted.contiguous()).clamp_(max=len(among) - 1)
    return at, among[at] == wanted
