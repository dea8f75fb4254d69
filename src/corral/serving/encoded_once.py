"""EncodedOnce: a retriever that encodes a request's queries once, for stage 1 and for a ranker that reads its score."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from corral.data.batches import Query
from corral.retrieval.retriever import Retriever


class EncodedOnce:
    """A ``Retriever``.

    Args:
        retriever: encodes.
    """

    def __init__(self, retriever: Retriever) -> None:
        self.retriever = retriever
        self._query: Query | None = None
        self._vectors: Tensor | None = None

    @contextmanager
    def remember(self, query: Query) -> Iterator[None]:
        """Until the block ends this very object is encoded once; no longer, for weights may change after."""
        self._query = query
        try:
            yield
        finally:
            self._query = self._vectors = None

    def encode_queries(self, query: Query) -> Tensor:
        """Query vectors [B, D]."""
        if query is not self._query:
            return self.retriever.encode_queries(query)
        if self._vectors is None:
            self._vectors = self.retriever.encode_queries(query)
        return self._vectors

    def encode_items(self, items: Tensor) -> Tensor:
        """Item vectors [..., D]."""
        return self.retriever.encode_items(items)
