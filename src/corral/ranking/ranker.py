"""Stage 2: candidates -> logits. The protocol, and the ranker made of fields and a CTR model.

Shape letters: B queries, N items per query, L history length, Fc context fields, Fi item fields, D field
size, E extra inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.data.batches import Query
from corral.ranking.ctr.ctr_model import CtrModel, FieldVectors
from corral.ranking.fields import Fields


class Ranker(Protocol):
    """Scores a few items per query, each on its own: a logit must not depend on the other items."""

    def __call__(self, query: Query, items: Tensor) -> Tensor:
        """Logits [B, N] of item rows ``items`` [B, N], int64; finite for padding and unknown rows too."""
        ...


@dataclass(frozen=True)
class EncodedQuery:
    """What a ``FieldRanker`` knows of B queries before it sees an item.

    Attributes:
        context: [B, 1, Fc, D].
        history: [B, L, Fi, D]; L = 0 for a CTR model that does not use it.
        mask: [B, L] bool.
        item_mask: scaled dropout mask [B, 1, Fi, D] for the item fields, or None.
    """

    context: Tensor
    history: Tensor
    mask: Tensor
    item_mask: Tensor | None


class FieldRanker(nn.Module):
    """Embeds the fields of query and items, then asks a CTR model.

    The query is encoded once, whatever N is; its history is looked up B * L times and never copied per item.

    Args:
        fields: the embeddings, of the size and number the CTR model was built for.
        ctr: a ``CtrModel``.
        embedding_dropout: dropout of embedding coordinates in training, with **one** mask per query for all
            its items and history slots, so that the items of a query stay comparable, and with the history.
        history_length: the ranker reads so many of the latest items; None: as many as the query has.
    """

    def __init__(
        self,
        fields: Fields,
        ctr: CtrModel,
        *,
        embedding_dropout: float = 0.0,
        history_length: int | None = None,
    ) -> None:
        super().__init__()
        self.history_length = history_length
        if not 0.0 <= embedding_dropout < 1.0:
            raise ValueError(f"embedding_dropout must be in [0, 1), got {embedding_dropout}")
        self.fields = fields
        self.ctr = ctr
        self.embedding_dropout = embedding_dropout

    def forward(self, query: Query, items: Tensor, extra: Tensor | None = None) -> Tensor:
        """Logits [B, N].

        Args:
            query: B queries.
            items: item rows [B, N], int64.
            extra: [B, N, E] dense inputs of each pair, for a CTR model built with ``num_extra`` = E.
        """
        return self.logits(self.encode(query), items, extra)

    def encode(self, query: Query) -> EncodedQuery:
        """The part that is the same for every item of a query."""
        fields = self.fields
        if self.history_length is not None:
            query = query.recent(self.history_length)
        history = fields.history(query) if self.ctr.uses_history else None
        context = fields.context(query, history)
        mask = query.history != 0
        if history is None:
            history = context.new_empty(context.shape[0], 0, fields.num_item_fields, fields.field_size)
            mask = mask[:, :0]
        if not self.training or self.embedding_dropout == 0.0:
            return EncodedQuery(context, history, mask, None)
        item_mask = functional.dropout(
            context.new_ones(len(query), 1, fields.num_item_fields, fields.field_size), self.embedding_dropout
        )
        context = functional.dropout(context, self.embedding_dropout)
        return EncodedQuery(context, history * item_mask, mask, item_mask)

    def id_tables(self) -> tuple[list[nn.Embedding], list[nn.Embedding]]:
        """The tables of users and of items, as far as ids are fields."""
        return self.fields.users.id_tables(), self.fields.catalogue.id_tables()

    def logits(
        self, encoded: EncodedQuery, items: Tensor, extra: Tensor | None = None, more: Tensor | None = None
    ) -> Tensor:
        """Logits [B, N] of queries already encoded; long candidate lists may come in several calls.

        Args:
            encoded: B queries.
            items: item rows [B, N], int64.
            extra: see :meth:`forward`.
            more: further item fields [B, N, F, D], after the item's own, for a CTR model built for them.
        """
        vectors = self.fields.items(items)
        if encoded.item_mask is not None:
            vectors = vectors * encoded.item_mask
        if more is not None:
            vectors = torch.cat([vectors, more], 2)
        return self.ctr(FieldVectors(encoded.context, vectors), encoded.history, encoded.mask, extra)
