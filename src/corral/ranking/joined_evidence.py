"""Several kinds of evidence, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from corral.data.batches import Query
from corral.ranking.evidence import Evidence


class JoinedEvidence(nn.Module):
    """The inputs of several ``Evidence`` modules, one after the other.

    Args:
        parts: at least one.
    """

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        if not parts:
            raise ValueError("no evidence to join: give None to the ranker instead")
        self.parts = nn.ModuleList(parts)
        self.size: int = sum(cast(Evidence, part).size for part in parts)

    def forward(self, query: Query, items: Tensor) -> Tensor:
        """[B, N, E], E the sum of the parts' sizes."""
        return torch.cat([part(query, items) for part in self.parts], -1)
