"""Stage 1: vectors for queries and items, whose inner product is the score."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from corral.data.batches import Query, SequenceBatch


@runtime_checkable
class Retriever(Protocol):
    """A plain ``nn.Module`` with these methods; score(query, item) = inner product of the two vectors."""

    def encode_queries(self, query: Query) -> Tensor:
        """Query vectors [B, D]."""
        ...

    def encode_items(self, items: Tensor) -> Tensor:
        """Item vectors [..., D] for item rows [...], int64."""
        ...


@runtime_checkable
class CausalRetriever(Retriever, Protocol):
    """A retriever that encodes a whole sequence once and gives a query at every position."""

    def encode_positions(self, sequence: SequenceBatch) -> Tensor:
        """Query vectors [B, L + 1, D]; query j has seen the slots before j (see SequenceBatch)."""
        ...


def pair_scores(queries: Tensor, vectors: Tensor) -> Tensor:
    """Scores [B, N] of each query's own items.

    Under autocast too in full precision: eight bits of a score of 10 are steps of .06, and stage 2 would be trained on
    other numbers than it is served.

    Args:
        queries: vectors [B, D].
        vectors: of items [B, N, D].
    """
    exact = torch.promote_types(torch.promote_types(queries.dtype, vectors.dtype), torch.float32)
    with torch.autocast(queries.device.type, enabled=False):
        return torch.einsum("bd,bnd->bn", queries.to(exact), vectors.to(exact))
