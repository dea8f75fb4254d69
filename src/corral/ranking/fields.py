"""From rows to field vectors: what a query and an item look like to a CTR model.

Shape letters: B queries, N items per query, L history length, F fields (Fc of the context, Fi of an item),
D field size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from corral.data.batches import Query
from corral.data.features import FeatureTable
from corral.ranking.history_pooling import mean_pooling, mean_weights
from corral.retrieval.entity_fields import EntityFields
from corral.retrieval.feature_fields import NumericScale, embedding_table


class RequestFields(nn.Module):
    """The fields of the request: ``query.features`` of the given names, categorical ones first.

    Args:
        cardinalities: number of codes (0 missing, 1 unknown) of each categorical request feature, int64 [B].
        scales: of each numeric request feature, float [B]; NaN is missing.
    """

    def __init__(
        self,
        cardinalities: Mapping[str, int],
        scales: Mapping[str, NumericScale],
        *,
        field_size: int,
        sparse: bool,
        embedding_std: float,
    ) -> None:
        super().__init__()
        self.names = (*cardinalities, *scales)
        self.scales = dict(scales)
        self.tables = nn.ModuleList(
            embedding_table(size, field_size, sparse, embedding_std) for size in cardinalities.values()
        )
        self.weights = nn.Parameter(torch.empty(len(scales), field_size).normal_(std=embedding_std))
        self.biases = nn.Parameter(torch.zeros(len(scales), field_size))
        self.missing_vectors = nn.Parameter(torch.zeros(len(scales), field_size))

    def not_decayed(self) -> list[nn.Parameter]:
        """Vectors of numbers, a field's each; see ``RowWiseAdam``."""
        return [self.weights, self.biases, self.missing_vectors]

    def forward(self, query: Query) -> Tensor:
        """[B, F, D]."""
        absent = [name for name in self.names if name not in query.features]
        if absent:
            raise ValueError(f"the query lacks the request features {absent}; it has {sorted(query.features)}")
        parts = [table(query.features[name]) for name, table in zip(self.names, self.tables, strict=False)]
        for number, (name, scale) in enumerate(self.scales.items()):
            # Times in seconds differ by less than float32 can tell.
            values = ((query.features[name].double() - scale.shift) / scale.scale).to(self.weights.dtype)
            present = torch.isfinite(values).unsqueeze(-1)
            values = torch.where(present, values.unsqueeze(-1), 0.0)
            vectors = torch.addcmul(self.biases[number], values, self.weights[number])
            parts.append(torch.where(present, vectors, self.missing_vectors[number]))
        return torch.stack(parts, dim=1)


class Fields(nn.Module):
    """Context fields of a query, item fields of its candidates, and its history in the item's own fields.

    Context: user id and features, request features, and (``pool_history``) the history as a multi-valued
    feature, one mean per item field. Item: id and features. Feature tables are buffers and not saved with the
    weights: they belong to the data set.

    Args:
        num_users, num_items: rows of the vocabularies, reserved ones included.
        user_features, item_features: their feature tables, if any.
        field_size: D.
        user_scales, item_scales: of the numeric features, by ``fit_scales`` on train rows.
        request_cardinalities, request_scales: see ``RequestFields``.
        user_id: whether the user's id is a field; without it users are their features and history alone.
        pool_history: whether the context has the mean of the history.
        id_dropout, max_values, sparse: see ``EntityFields``.
        embedding_std: standard deviation of the embeddings at the start.
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        user_features: FeatureTable | None = None,
        item_features: FeatureTable | None = None,
        *,
        field_size: int = 16,
        user_scales: Mapping[str, NumericScale] | None = None,
        item_scales: Mapping[str, NumericScale] | None = None,
        request_cardinalities: Mapping[str, int] | None = None,
        request_scales: Mapping[str, NumericScale] | None = None,
        user_id: bool = True,
        pool_history: bool = True,
        id_dropout: float = 0.0,
        max_values: int = 8,
        sparse: bool = False,
        embedding_std: float = 0.05,
    ) -> None:
        super().__init__()
        self.field_size, self.pool_history = field_size, pool_history
        self.users = EntityFields(
            num_users,
            user_features,
            user_scales,
            field_size=field_size,
            identity=user_id,
            id_dropout=id_dropout,
            max_values=max_values,
            sparse=sparse,
            embedding_std=embedding_std,
        )
        self.catalogue = EntityFields(
            num_items,
            item_features,
            item_scales,
            field_size=field_size,
            id_dropout=id_dropout,
            max_values=max_values,
            sparse=sparse,
            embedding_std=embedding_std,
        )
        self.request = (
            RequestFields(
                request_cardinalities or {},
                request_scales or {},
                field_size=field_size,
                sparse=sparse,
                embedding_std=embedding_std,
            )
            if request_cardinalities or request_scales
            else None
        )
        names = [f"user.{name}" for name in self.users.names]
        names += [f"request.{name}" for name in self.request.names] if self.request is not None else []
        names += [f"history.{name}" for name in self.catalogue.names] if pool_history else []
        self.context_names = tuple(names)
        self.item_names = self.catalogue.names

    @property
    def num_context_fields(self) -> int:
        """Fc."""
        return len(self.context_names)

    @property
    def num_item_fields(self) -> int:
        """Fi, and the number of fields of a history slot."""
        return len(self.item_names)

    def context(self, query: Query, history: Tensor | None = None) -> Tensor:
        """Context fields [B, 1, Fc, D].

        Args:
            query: B queries.
            history: ``self.history(query)`` where the caller has it already.
        """
        parts = [self.users(query.user)] if len(self.users) else []
        some = next(self.catalogue.parameters())
        if self.request is not None:
            parts.append(self.request(query))
        if self.pool_history:
            mask = query.history != 0
            if history is None:
                parts.append(self.catalogue.weighted_sum(query.history, mean_weights(mask, some.dtype)))
            else:
                parts.append(mean_pooling(history, mask))
        if not parts:
            parts.append(some.new_empty(query.user.shape[0], 0, self.field_size))
        return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).unsqueeze(1)

    def items(self, items: Tensor) -> Tensor:
        """Item rows [B, N] (any shape), int64 -> item fields [B, N, Fi, D]."""
        return self.catalogue(items)

    def history(self, query: Query) -> Tensor:
        """The history in item fields [B, L, Fi, D]; mask it by ``query.history != 0``."""
        return self.catalogue(query.history)
