"""Candidates: item rows and scores, best first; what both stages speak."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """A ranked list of items for each query of a batch.

    Attributes:
        items: item rows [B, T], int64, best first; 0 (padding) where there are no more.
        scores: [B, T], descending along T; -inf where ``items`` is padding.
    """

    items: Tensor
    scores: Tensor

    def __post_init__(self) -> None:
        assert self.items.shape == self.scores.shape, (self.items.shape, self.scores.shape)

    @property
    def mask(self) -> Tensor:
        """True [B, T] where there is an item."""
        return self.items != 0

    def top(self, k: int) -> Candidates:
        """The first k columns (fewer where the list is shorter)."""
        return Candidates(self.items[:, :k], self.scores[:, :k])
