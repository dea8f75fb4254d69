"""One feature column of users or items -> one field vector per row.

Shape letters: n rows asked for, D field size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.data.features import FeatureColumn, FeatureKind, FeatureTable
from corral.data.vocabulary import FIRST_ROW


@dataclass(frozen=True)
class NumericScale:
    """How a numeric feature is standardised: (value - shift) / scale, scale > 0."""

    shift: float = 0.0
    scale: float = 1.0


def fit_scales(table: FeatureTable, rows: np.ndarray) -> dict[str, NumericScale]:
    """Mean and standard deviation of each numeric column over the distinct ``rows``, missing values left out.

    Args:
        table: the features of users or of items.
        rows: rows that occur in **train** events, repeated or not; others must not shape a train-time input.

    Returns:
        A scale per numeric column; 0 and 1 where a column has no value or a single one in these rows.
    """
    distinct = np.unique(rows)
    scales = {}
    for name, column in table.columns.items():
        if column.kind is not FeatureKind.NUMERIC:
            continue
        values = np.asarray(column.values[distinct], dtype=np.float64)
        values = values[np.isfinite(values)]
        deviation = float(values.std()) if values.size else 0.0
        shift = float(values.mean()) if values.size else 0.0
        scales[name] = NumericScale(shift, deviation if deviation > 0.0 else 1.0)
    return scales


def embedding_table(rows: int, field_size: int, sparse: bool, std: float) -> nn.Embedding:
    """A table whose padding row is zero and stays so; its unknown row starts at zero, the mean."""
    table = nn.Embedding(rows, field_size, padding_idx=0, sparse=sparse)
    with torch.no_grad():
        table.weight.normal_(std=std)[:FIRST_ROW] = 0.0
    return table


class CategoricalField(nn.Module):
    """The embedding of a row's code; zero where it is missing."""

    codes: Tensor

    def __init__(self, column: FeatureColumn, field_size: int, sparse: bool, std: float) -> None:
        super().__init__()
        self.vocabulary = column.vocabulary
        self.embedding = embedding_table(column.cardinality, field_size, sparse, std)
        self.register_buffer("codes", torch.tensor(np.asarray(column.values, dtype=np.int32)), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """rows [n] -> [n, D]."""
        return self.embedding(self.codes[rows])


class MultiField(nn.Module):
    """The mean of the embeddings of a row's codes; zero where it has none."""

    codes: Tensor

    def __init__(self, column: FeatureColumn, field_size: int, max_values: int, sparse: bool, std: float) -> None:
        super().__init__()
        self.vocabulary = column.vocabulary
        self.embedding = embedding_table(column.cardinality, field_size, sparse, std)
        codes = np.asarray(column.padded(max_values), dtype=np.int32)
        self.register_buffer("codes", torch.tensor(codes), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """rows [n] -> [n, D]; the vectors of the single codes [n, max_values, D] are never made."""
        table = self.embedding
        if torch.compiler.is_compiling():  # exporters know no bags
            codes = self.codes[rows]
            return table(codes).sum(1) / (codes != 0).sum(1, keepdim=True).clamp(min=1)
        return functional.embedding_bag(
            self.codes[rows], table.weight, mode="mean", sparse=table.sparse, padding_idx=table.padding_idx
        )


class NumericField(nn.Module):
    """Standardised value times a learned vector, plus a bias; a learned vector of its own where it is
    missing."""

    values: Tensor
    missing: Tensor

    def __init__(self, column: FeatureColumn, scale: NumericScale, field_size: int, std: float) -> None:
        super().__init__()
        raw = np.asarray(column.values, dtype=np.float64)
        present = np.isfinite(raw)
        values = np.where(present, (raw - scale.shift) / scale.scale, 0.0)
        self.register_buffer("values", torch.tensor(values, dtype=torch.get_default_dtype()), persistent=False)
        self.register_buffer("missing", torch.tensor(~present), persistent=False)
        self.weight = nn.Parameter(torch.empty(field_size).normal_(std=std))
        self.bias = nn.Parameter(torch.zeros(field_size))
        self.missing_vector = nn.Parameter(torch.zeros(field_size))

    def forward(self, rows: Tensor) -> Tensor:
        """rows [n] -> [n, D]."""
        vectors = torch.addcmul(self.bias, self.values[rows].unsqueeze(-1), self.weight)
        return torch.where(self.missing[rows].unsqueeze(-1), self.missing_vector, vectors)
