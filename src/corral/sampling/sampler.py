"""Training negatives with the log-probability of drawing them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """Items drawn with replacement for each query.

    Attributes:
        items: item rows [B, N], int64.
        log_q: natural log of the **normalised** probability of each draw [B, N].
    """

    items: Tensor
    log_q: Tensor


@runtime_checkable
class Sampler(Protocol):
    """A proposal distribution over items, given a query."""

    def refresh(self, item_vectors: Tensor) -> None:
        """Takes new item vectors [M, D] of the catalogue; a no-op where the proposal does not use them."""
        ...

    def sample(self, query_vectors: Tensor, n: int, generator: torch.Generator) -> Sample:
        """n independent draws, with replacement, for each query vector [B, D]."""
        ...

    def log_q(self, query_vectors: Tensor, items: Tensor) -> Tensor:
        """Log-probability of drawing ``items`` [B, N] for each query [B, N]."""
        ...
