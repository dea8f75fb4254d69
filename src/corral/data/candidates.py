"""Candidates: item rows and scores, best first; what both stages speak."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from corral.data.html_table import html_table

# So many lists, and so many items of each, are shown in a notebook.
_SHOWN = 5


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

    def __repr__(self) -> str:
        lists, longest = self.items.shape
        return f"Candidates({lists:,} lists of up to {longest:,} items, {int(self.mask.sum()):,} in all)"

    def _repr_html_(self) -> str:
        some = self.top(_SHOWN)
        cells = [
            [f"{item} ({score:.3f})" if item else None for item, score in zip(items, scores, strict=True)]
            for items, scores in zip(some.items[:_SHOWN].tolist(), some.scores[:_SHOWN].tolist(), strict=True)
        ]
        columns: dict[str, list[object]] = {"query": list(range(len(cells)))}
        columns |= {f"{place + 1}": [row[place] for row in cells] for place in range(some.items.shape[1])}
        return html_table(repr(self), columns, notes=["item rows (scores), best first"])
