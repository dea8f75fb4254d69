"""Stage 1: vectors for queries and items, whose inner product is the score."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

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
