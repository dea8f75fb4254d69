"""Cosines: rows by the cosine of their vectors, for similar items and similar users."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from corral.data.candidates import Candidates
from corral.retrieval.index import ExactIndex


class Cosines:
    """Vectors of unit length, searched exactly.

    Args:
        vectors: [M, D]; a vector of zeros has cosine 0 with everything.
        rows: their rows [M], int64, each at least 2.
    """

    def __init__(self, vectors: Tensor, rows: Tensor) -> None:
        self._index = ExactIndex(functional.normalize(vectors.float(), dim=1), rows)

    def has(self, rows: Tensor) -> Tensor:
        """Which rows [B] have a vector here, bool."""
        return self._index.positions(rows) >= 0

    def nearest(self, rows: Tensor, k: int) -> Candidates:
        """The k rows most similar to each of ``rows`` [B], itself left out; none for an unknown row."""
        k = min(k, max(len(self._index) - 1, 0))
        place = self._index.positions(rows)
        if not k or not len(rows):
            empty = torch.zeros((len(rows), k), dtype=torch.int64)
            return Candidates(empty, empty.float())
        found = self._index.search(self._index.vectors[place.clamp(min=0)], k, rows[:, None])
        absent = (place < 0)[:, None]
        # rounding can lift a cosine a hair above 1
        scores = found.scores.clamp(max=1.0).masked_fill(absent, -torch.inf)
        return Candidates(found.items.masked_fill(absent, 0), scores)
