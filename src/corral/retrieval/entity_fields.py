"""The id and the features of a user or of an item -> its field vectors.

Shape letters: F fields, D field size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.data.features import FeatureKind, FeatureTable
from corral.data.vocabulary import FIRST_ROW, UNKNOWN
from corral.retrieval.feature_fields import (
    CategoricalField,
    MultiField,
    NumericField,
    NumericScale,
    embedding_table,
)
from corral.retrieval.kept_rows import KeptRows


class EntityFields(nn.Module):
    """The fields of a user or of an item: its id, then its features in the order of ``names``.

    Args:
        num_rows: rows of the vocabulary, reserved ones included.
        features: its feature table; text columns are for display and ignored. None: the id alone.
        scales: of numeric columns; a column without one is taken as it is.
        identity: whether the id is a field.
        id_dropout: in training, the share of ids replaced by UNKNOWN (features stay): it trains the unknown
            row and what the features must do for a cold id.
        max_values: values of a multi-valued feature that count: the first so many.
        sparse: row-wise sparse gradients for the embedding tables.
    """

    def __init__(
        self,
        num_rows: int,
        features: FeatureTable | None = None,
        scales: Mapping[str, NumericScale] | None = None,
        *,
        field_size: int,
        identity: bool = True,
        id_dropout: float = 0.0,
        max_values: int = 8,
        sparse: bool = False,
        embedding_std: float = 0.05,
    ) -> None:
        super().__init__()
        if not 0.0 <= id_dropout < 1.0:
            raise ValueError(f"id_dropout must be in [0, 1), got {id_dropout}")
        if features is not None and features.rows != num_rows:
            raise ValueError(f"the feature table has {features.rows} rows, the vocabulary {num_rows}")
        self.num_rows, self.field_size, self.id_dropout = num_rows, field_size, id_dropout
        self.id = embedding_table(num_rows, field_size, sparse, embedding_std) if identity else None
        self.columns = nn.ModuleList()
        names = ["id"] if identity else []
        for name, column in (features.columns if features is not None else {}).items():
            if column.kind is FeatureKind.CATEGORICAL:
                self.columns.append(CategoricalField(column, field_size, sparse, embedding_std))
            elif column.kind is FeatureKind.MULTI:
                self.columns.append(MultiField(column, field_size, max_values, sparse, embedding_std))
            elif column.kind is FeatureKind.NUMERIC:
                scale = (scales or {}).get(name, NumericScale())
                self.columns.append(NumericField(column, scale, field_size, embedding_std))
            else:
                continue
            names.append(name)
        self.names = tuple(names)
        self._kept: KeptRows | None = None

    def precompute(self) -> None:
        """Keeps the vectors of all rows, for calls without gradient in evaluation mode, until a weight changes.

        For serving: [rows, F D] numbers; nothing where there are no features, whose vectors are parameters.
        """
        if len(self.columns):
            self._kept = None
            kept = KeptRows(0)
            kept.keep((self,), self.num_rows, lambda rows: (self(rows, keep_ids=True).flatten(-2),))
            self._kept = kept

    def __len__(self) -> int:
        return len(self.names)

    def id_tables(self) -> list[nn.Embedding]:
        """The table of ids, if ids are a field."""
        return [] if self.id is None else [self.id]

    def forward(self, rows: Tensor, *, keep_ids: bool = False) -> Tensor:
        """rows [...], int64 -> [..., F, D]; with ``keep_ids`` no id is dropped, in training either."""
        lasting = not (self.training or torch.is_grad_enabled() or torch.compiler.is_compiling())
        if self._kept is not None and lasting and (vectors := self._kept.still((self,))) is not None:
            return functional.embedding(rows, vectors[0]).unflatten(-1, (len(self), self.field_size))
        parts = []
        if self.id is not None:
            parts.append(self.id(rows if keep_ids else self._drop_ids(rows)).unsqueeze(-2))
        if len(self.columns):
            parts.append(self._features(rows))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)

    def _drop_ids(self, rows: Tensor) -> Tensor:
        if not self.training or self.id_dropout == 0.0:
            return rows
        drop = torch.rand(rows.shape, device=rows.device) < self.id_dropout
        return rows.masked_fill(drop & (rows >= FIRST_ROW), UNKNOWN)

    def _features(self, rows: Tensor) -> Tensor:
        # A batch names the same items again and again: each is looked up, averaged and scaled once. The copy
        # to the places is an embedding, whose gradient is much cheaper than that of indexing.
        # Of one row, as a request's user, all are distinct; and where the shape must be static nobody knows how many.
        if torch.compiler.is_compiling() or rows.numel() == 1:
            vectors = [column(rows.flatten()) for column in self.columns]
            return torch.stack(vectors, dim=-2).unflatten(0, rows.shape)
        distinct, place = torch.unique(rows, return_inverse=True)
        vectors = [column(distinct) for column in self.columns]
        spread = functional.embedding(place, torch.cat(vectors, dim=-1))
        return spread.unflatten(-1, (len(vectors), self.field_size))
