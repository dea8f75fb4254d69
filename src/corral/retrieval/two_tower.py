"""Two towers: one net for the user (id, features, history), one for the item (id, features); Covington et al. 2016,
Yi et al. 2019. The retriever that knows new users and new items by their features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from corral.data.batches import Query
from corral.data.features import FeatureTable
from corral.retrieval.entity_fields import EntityFields
from corral.retrieval.feature_fields import NumericScale


class _Tower(nn.Module):
    """Fields -> vector: a linear map plus a net with ReLU between layers."""

    def __init__(self, inputs: int, hidden: Sequence[int], size: int, dropout: float) -> None:
        super().__init__()
        widths = [inputs, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        self.deep = nn.Sequential(*layers, nn.Linear(widths[-1], size))
        # The straight way lets the tower start as a factorization and learn its corrections.
        self.straight = nn.Linear(inputs, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.deep(x) + self.straight(x)


class TwoTower(nn.Module):
    """A retriever whose towers read ids and features.

    The user tower sees the user's fields and the mean of the history's item fields; the item tower the
    item's fields. Both share the item tables.

    Args:
        num_users: user rows, the two reserved ones included.
        num_items: item rows, likewise.
        user_features: features by user row; None: ids alone.
        item_features: features by item row.
        user_scales: of numeric user features, fitted on train rows.
        item_scales: of numeric item features.
        size: D, of fields and vectors.
        hidden: widths of each tower's hidden layers.
        dropout: in the towers.
        history_length: the last so many items of the history are averaged.
        user_id: whether the user's id is a field; without it users are their features and history.
        item_id: whether the item's id is a field.
        id_dropout: share of ids replaced by "unknown" in training, which teaches the towers new ids.
        sparse: row-wise sparse gradients (for sampled losses).
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        user_features: FeatureTable | None = None,
        item_features: FeatureTable | None = None,
        *,
        user_scales: Mapping[str, NumericScale] | None = None,
        item_scales: Mapping[str, NumericScale] | None = None,
        size: int = 64,
        hidden: Sequence[int] = (128,),
        dropout: float = 0.1,
        history_length: int = 50,
        user_id: bool = True,
        item_id: bool = True,
        id_dropout: float = 0.05,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.history_length = history_length
        self.users = EntityFields(
            num_users,
            user_features,
            user_scales,
            field_size=size,
            identity=user_id,
            id_dropout=id_dropout,
            sparse=sparse,
            embedding_std=size**-0.5,
        )
        self.items = EntityFields(
            num_items,
            item_features,
            item_scales,
            field_size=size,
            identity=item_id,
            id_dropout=id_dropout,
            sparse=sparse,
            embedding_std=size**-0.5,
        )
        if not len(self.items):
            raise ValueError("item_id=False, and the data set has no item features: the item tower sees nothing")
        self.query_tower = _Tower((len(self.users) + len(self.items)) * size, hidden, size, dropout)
        self.item_tower = _Tower(len(self.items) * size, hidden, size, dropout)

    def encode_queries(self, query: Query) -> Tensor:
        """Query vectors [B, D]."""
        history = query.recent(self.history_length).history
        seen = (history != 0).unsqueeze(-1)
        mean = (self.items(history).flatten(2) * seen).sum(1) / seen.sum(1).clamp(min=1)
        if not len(self.users):
            return self.query_tower(mean)
        return self.query_tower(torch.cat([self.users(query.user).flatten(1), mean], dim=1))

    def id_tables(self) -> tuple[list[nn.Embedding], list[nn.Embedding]]:
        """The tables of users and of items, as far as ids are fields."""
        return self.users.id_tables(), self.items.id_tables()

    def encode_items(self, items: Tensor) -> Tensor:
        """Item vectors [..., D]."""
        return self.item_tower(self.items(items).flatten(-2))
