"""RememberedEvidence: the inputs of examples that training asks for again and again, worked out once.

Shape letters: n examples, B queries, N items per query, E inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from corral.data.batches import Batch, Query
from corral.data.whole_batch import gathered


class RememberedEvidence:
    """Evidence [n, E] of (user, item, time, history): nothing in it is learned, so it is the same in every epoch.

    The history is part of the key, as a hash of 64 bits: where events of one time have an order, as the baskets of a
    leave-one-out split, each of them has seen more than the one before.

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
            columns.append((batch.query.user, batch.item, _moment(batch.query), inputs))
            on_batch(len(batch))
        user, item, moment, inputs = (gathered(torch.cat(column)) for column in zip(*columns, strict=True))
        self._span = int(item.max()) + 1
        self._pairs, pair = torch.unique(user * self._span + item, return_inverse=True)
        self._moments, number = torch.unique(moment, return_inverse=True)
        self._keys, order = (pair * len(self._moments) + number).sort(stable=True)
        self._inputs = inputs[order]

    def __call__(self, query: Query, items: Tensor) -> Tensor | None:
        """[B, N, E], or None where an example is not among those remembered."""
        pair, known_pair = _place(self._pairs, query.user[:, None] * self._span + items)
        number, known_moment = _place(self._moments, _moment(query)[:, None])
        at, known = _place(self._keys, pair * len(self._moments) + number)
        known &= known_pair & known_moment & (items < self._span)
        return self._inputs[at] if bool(known.all()) else None


def _moment(query: Query) -> Tensor:
    """The time of each request and all that its history holds, hashed [B], int64."""
    # numpy's generator: what torch draws beside other workers is cut into their shares.
    drawn = np.random.default_rng(0).integers(1 << 62, size=query.history.shape[1] + 1)
    factors = torch.from_numpy(drawn).to(query.time.device)
    # The latest item has the first factor: padding in front, which is 0, changes nothing. int64 wraps around.
    return query.time * factors[0] + (query.history.flip(1) * factors[1:]).sum(1)


def _place(among: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Where each value stands in a sorted tensor, and whether it is there."""
    at = torch.searchsorted(among, wanted.contiguous()).clamp_(max=len(among) - 1)
    return at, among[at] == wanted
