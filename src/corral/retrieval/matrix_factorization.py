"""Matrix factorization: one vector per user and per item (Koren, Bell & Volinsky, IEEE Computer 2009)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corral.data.batches import Query
from corral.data.vocabulary import FIRST_ROW


class MatrixFactorization(nn.Module):
    """A retriever of users and items by their ids alone; an unknown user gets the trained vector of row 1.

    Args:
        num_users: user rows, the two reserved ones included.
        num_items: item rows, the two reserved ones included.
        size: D.
        user_dropout: share of users replaced by "unknown" in training, so that row 1 learns an average user.
        sparse: row-wise sparse gradients (for sampled losses; a full softmax touches every item anyway).
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        *,
        size: int = 64,
        user_dropout: float = 0.05,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.user_dropout = user_dropout
        self.user_embedding = nn.Embedding(num_users, size, sparse=sparse)
        self.item_embedding = nn.Embedding(num_items, size, sparse=sparse)
        for table in (self.user_embedding, self.item_embedding):
            nn.init.normal_(table.weight, std=size**-0.5)
            with torch.no_grad():
                # "Unknown" too: untrained, it says nothing, and not what noise says.
                table.weight[:FIRST_ROW] = 0

    def encode_queries(self, query: Query) -> Tensor:
        """User vectors [B, D]."""
        user = query.user
        if self.training and self.user_dropout > 0:
            user = user.masked_fill(torch.rand(user.shape, device=user.device) < self.user_dropout, 1)
        return self.user_embedding(user)

    def id_tables(self) -> tuple[list[nn.Embedding], list[nn.Embedding]]:
        """The tables of users and of items."""
        return [self.user_embedding], [self.item_embedding]

    def encode_items(self, items: Tensor) -> Tensor:
        """Item vectors [..., D]."""
        return self.item_embedding(items)
