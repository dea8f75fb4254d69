"""MaskedRanker: a ranker that is not told some of what it would read; exact, for it calls the ranker itself.

Shape letters: B queries, N items per query, Ku look-alike users, Ki recall items.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor, nn

from corral.data.batches import Query
from corral.ranking.ranker import Ranker
from corral.rar.ranker import Enriched, RarRanker


class Source(StrEnum):
    """What a ranker reads beside user, item and request; the last two only where it is a ``RarRanker``."""

    HISTORY = "history"
    LOOK_ALIKES = "look-alikes"
    RECALL_ITEMS = "recall items"


@dataclass(frozen=True)
class Mask:
    """What is left out.

    Attributes:
        sources: as a whole.
        look_alikes: user rows that are left out of the look-alikes.
    """

    sources: frozenset[Source] = frozenset()
    look_alikes: frozenset[int] = frozenset()

    def without(self, *sources: Source) -> Mask:
        """More is left out."""
        return replace(self, sources=self.sources | {*sources})


def sources_of(ranker: Ranker) -> tuple[Source, ...]:
    """What can be left out of a ranker."""
    return tuple(Source) if isinstance(ranker, RarRanker) else (Source.HISTORY,)


class MaskedRanker(nn.Module):
    """A ``Ranker`` whose inputs are masked before another one is called.

    A history that is left out is all padding, also for the evidence and for the retriever's score that the ranker may
    read; look-alikes and recall items that are left out are row 0, as where there are none. What a ranker knows of the
    user's row, as-of statistics among it, stays.

    Args:
        ranker: that is called.
        mask: what it is not told; sources that it does not read count for nothing.
    """

    def __init__(self, ranker: Ranker, mask: Mask) -> None:
        super().__init__()
        self.ranker, self.mask = ranker, mask

    def forward(self, query: Query, items: Tensor) -> Tensor:
        """Logits [B, N]."""
        if isinstance(self.ranker, RarRanker):
            return self.enriched(query, items).logits
        return self.ranker(self._told(query), items)

    def enriched(self, query: Query, items: Tensor) -> Enriched:
        """Logits of a ``RarRanker`` and the matching that made them; see there."""
        assert isinstance(self.ranker, RarRanker)
        query = self._told(query)
        encoded = self.ranker.encode(query)
        users = encoded.user_rows
        hidden = torch.isin(users, torch.tensor(sorted(self.mask.look_alikes), dtype=users.dtype, device=users.device))
        encoded = replace(encoded, user_rows=users.masked_fill(hidden | self._hides(Source.LOOK_ALIKES), 0))
        rows = self.ranker.neighbours.recall_items(encoded.snapshot, query.user, items)
        return self.ranker.enrich(encoded, query, items, item_rows=rows * (not self._hides(Source.RECALL_ITEMS)))

    def _told(self, query: Query) -> Query:
        return replace(query, history=query.history * (not self._hides(Source.HISTORY)))

    def _hides(self, source: Source) -> bool:
        return source in self.mask.sources
