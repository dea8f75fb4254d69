"""EncodedOnce: a retriever that encodes a request's queries once, for stage 1 and for a ranker that reads its score."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from corral.data.batches import Query
from corral.retrieval.retriever import Retriever


@dataclass
class _Remembered:
    """A query and its vectors, held together: threads that encode at once never see each other's."""

    query: Query
    vectors: Tensor | None = None


class EncodedOnce:
    """A ``Retriever``.

    Args:
        retriever: encodes.
    """

    def __init__(self, retriever: Retriever) -> None:
        self.retriever = retriever
        self._remembered: _Remembered | None = None

    @contextmanager
    def remember(self, query: Query) -> Iterator[None]:
        """Until the block ends this very object is encoded once; no longer, for weights may change after."""
        self._remembered = _Remembered(query)
        try:
            yield
        finally:
            self._remembered = None

    def encode_queries(self, query: Query) -> Tensor:
        """Query vectors [B, D]."""
        remembered = self._remembered
        if remembered is None or remembered.query is not query:
            return self.retriever.encode_queries(query)
        if remembered.vectors is None:
            remembered.vectors = self.retriever.encode_queries(query)
        return remembered.vectors

    def encode_items(self, items: Tensor) -> Tensor:
        """Item vectors [..., D]."""
        return self.retriever.encode_items(items)
