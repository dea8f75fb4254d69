"""The id and the features of a user or of an item -> its field vectors.

Shape letters: F fields, D field size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
from corral.retrieval.places import Places


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
        vectors = self._all_kept()
        if vectors is not None:
            return functional.embedding(rows, vectors).unflatten(-1, (len(self), self.field_size))
        ids = rows if keep_ids else self._drop_ids(rows)
        if ids is rows:
            return self._look_up((*self.id_tables(), *self.columns), rows)
        parts = [table(ids).unsqueeze(-2) for table in self.id_tables()]
        if len(self.columns):
            parts.append(self._look_up(tuple(self.columns), rows))
        return torch.cat(parts, dim=-2)

    def weighted_sum(self, rows: Tensor, weights: Tensor) -> Tensor:
        """Of each set of rows [B, L], int64, with weights [B, L] -> [B, F, D].

        The vectors of the rows [B, L, F, D] are not made where that can be helped.
        """
        drops = self.training and self.id_dropout > 0.0
        if drops or not self._repeats(rows) or self._all_kept() is not None:
            summed = torch.bmm(weights.unsqueeze(1), self(rows).flatten(2)).squeeze(1)
        else:
            distinct, places = Places.distinct(rows)
            vectors = [field(distinct) for field in (*self.id_tables(), *self.columns)]
            summed = places.weighted_sum(torch.cat(vectors, dim=-1), weights)
        return summed.unflatten(-1, (len(self), self.field_size))

    def _all_kept(self) -> Tensor | None:
        """The vectors of all rows [rows, F D], where they are kept and hold for this call."""
        if self._kept is None or self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        vectors = self._kept.still((self,))
        return None if vectors is None else vectors[0]

    def _drop_ids(self, rows: Tensor) -> Tensor:
        if not self.training or self.id_dropout == 0.0 or self.id is None:
            return rows
        drop = torch.rand(rows.shape, device=rows.device) < self.id_dropout
        return rows.masked_fill(drop & (rows >= FIRST_ROW), UNKNOWN)

    def _repeats(self, rows: Tensor) -> bool:
        """Whether each row is worth looking up once, however often it is named.

        A batch names the same items again and again: each is then averaged and scaled once, and so is its gradient,
        which reaches the optimiser as one row. Not where there is neither gradient nor feature; of one row, as a
        request's user, all are distinct; and where the shape must be static nobody knows how many.
        """
        gains = len(self.columns) > 0 or torch.is_grad_enabled()
        return gains and rows.numel() != 1 and not torch.compiler.is_compiling()

    def _look_up(self, fields: Sequence[nn.Module], rows: Tensor) -> Tensor:
        """Vectors [..., len(fields), D] of rows [...]."""
        if not self._repeats(rows):
            return torch.stack([field(rows.flatten()) for field in fields], dim=-2).unflatten(0, rows.shape)
        distinct, places = Places.distinct(rows)
        vectors = [field(distinct) for field in fields]
        return places.spread(torch.cat(vectors, dim=-1)).unflatten(-1, (len(vectors), self.field_size))
