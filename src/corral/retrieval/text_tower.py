"""TextTower: a retriever that knows items by their text, through an encoder from elsewhere; new items need no training.

Shape letters: B queries, L history length, D vector size, E size of the encoder's vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from corral.data.batches import Query
from corral.data.features import FeatureTable
from corral.retrieval.text_vectors import TextEncoder, TextVectors


class TextTower(nn.Module):
    """Item: a learned map of its text's vector. Query: a small net on the mean of the history's text vectors.

    The encoder is frozen and asked once. Of no paper: the simplest use of one. The history's mean is weighted, the
    latest item by 1, each step back by ``decay`` less.

    Args:
        users: features by user row; not read: users are what they had.
        items: features by item row, text columns among them.
        encoder: see ``TextVectors``; None: to load a bundle.
        text_size: E, where there is no encoder.
        columns: the text columns; None: all.
        size: D.
        hidden: width of the query's net.
        history_length: the last so many items of the history are read.
        decay: in (0, 1].
        item_id: add a vector of the item's id, which says what the text does not; new items have none.
    """

    def __init__(
        self,
        users: FeatureTable,
        items: FeatureTable,
        *,
        encoder: TextEncoder | None = None,
        text_size: int | None = None,
        columns: Sequence[str] | None = None,
        size: int = 64,
        hidden: int = 128,
        history_length: int = 50,
        decay: float = 0.8,
        item_id: bool = False,
    ) -> None:
        super().__init__()
        if not 0.0 < decay <= 1.0:
            raise ValueError(f"decay must be in (0, 1], got {decay}")
        self.history_length = history_length
        self.text, self.decay = TextVectors(items, encoder, size=text_size, columns=columns), decay
        self.item = nn.Linear(self.text.size, size, bias=False)
        self.query = nn.Sequential(nn.Linear(self.text.size, hidden), nn.ReLU(), nn.Linear(hidden, size))
        self.item_embedding = nn.Embedding(items.rows, size) if item_id else None
        if self.item_embedding is not None:
            nn.init.zeros_(self.item_embedding.weight)

    def encode_queries(self, query: Query) -> Tensor:
        """[B, D]; of a query without a history the same for everybody."""
        history = query.recent(self.history_length).history
        steps = torch.arange(history.shape[1] - 1, -1, -1, device=history.device)
        weight = (self.decay**steps * (history != 0)).to(self.text.vectors)
        total = weight.sum(1, keepdim=True)
        mean = torch.einsum("bl,ble->be", weight, self.text(history)) / torch.where(total > 0, total, 1.0)
        found: Tensor = self.query(mean)
        return found

    def encode_items(self, items: Tensor) -> Tensor:
        """[..., D]."""
        vectors: Tensor = self.item(self.text(items))
        return vectors if self.item_embedding is None else vectors + self.item_embedding(items)

    def id_tables(self) -> tuple[list[nn.Embedding], list[nn.Embedding]]:
        """No table of users; that of items, if ids are used."""
        return [], [] if self.item_embedding is None else [self.item_embedding]
