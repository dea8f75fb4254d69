"""As-of statistics as inputs of a ranker."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corral.data.as_of import AsOfStatistics
from corral.data.batches import Query
from corral.data.features import FeatureTable

# What brings a column to about unit scale, by the last word of its name or the last but one; others have it.
_SCALES = {"count": 0.25, "age": 0.1, "idle": 0.1, "residual": 4.0}


class AsOfEvidence(nn.Module):
    """What happened to user, item and the item's categories strictly before the query's time, as ``Evidence``.

    The rows of the query's user and of the items are looked up, not its history: a user the vocabulary lacks has
    no statistics of its own.

    Args:
        statistics: of which events may be looked up.
    """

    def __init__(self, statistics: AsOfStatistics) -> None:
        super().__init__()
        self.statistics = statistics
        self.size = statistics.size
        scales = [next((_SCALES[word] for word in _words(name) if word in _SCALES), 1.0) for name in statistics.names]
        self.register_buffer("scales", torch.tensor(scales), persistent=False)

    scales: Tensor

    @torch.no_grad()
    def forward(self, query: Query, items: Tensor) -> Tensor:
        """[B, N, E]."""
        return self.statistics(query.user, items, query.time) * self.scales

    def renumber(self, moved: Tensor, items: FeatureTable) -> None:
        """See ``HoldsItemRows``."""
        device = self.statistics.times.device
        self.statistics = self.statistics.cpu().renumbered(moved, items).to(device)


def _words(name: str) -> list[str]:
    return name.split("_")[-2:]
