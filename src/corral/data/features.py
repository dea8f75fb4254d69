"""FeatureTable: user and item features by row: categorical, multi-valued, numeric, text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import polars as pl
import pyarrow as pa

from corral.data.vocabulary import FIRST_ROW, PADDING, Vocabulary


class FeatureKind(StrEnum):
    """What a feature column holds."""

    CATEGORICAL = "categorical"
    MULTI = "multi"
    NUMERIC = "numeric"
    TEXT = "text"
    """For display only (a title); models ignore it."""


@dataclass(frozen=True)
class FeatureColumn:
    """One feature of every user row, or of every item row.

    Attributes:
        name: the column's name in the source.
        kind: what it holds.
        values: categorical: codes int32 [rows]; multi: codes int32 [nnz]; numeric: float32 [rows], NaN where
            missing; text: empty. Code 0 is missing, 1 unknown (a value first seen after the data set was
            made), real values start at 2.
        offsets: multi only: row r has ``values[offsets[r]:offsets[r + 1]]``, int64 [rows + 1].
        vocabulary: categorical and multi only: value <-> code.
        texts: text only: one string a row, "" where missing.
    """

    name: str
    kind: FeatureKind
    values: np.ndarray
    offsets: np.ndarray | None = None
    vocabulary: Vocabulary | None = None
    texts: pa.Array | None = None

    @property
    def cardinality(self) -> int:
        """Number of codes, the two reserved ones included; categorical and multi only."""
        if self.vocabulary is None:
            raise ValueError(f"feature {self.name!r} is {self.kind}: only categorical and multi have codes")
        return len(self.vocabulary)

    def padded(self, max_length: int) -> np.ndarray:
        """The first ``max_length`` values of every row, int32 [rows, W], 0-padded at the end; multi only.

        W is the longest row's length, at most ``max_length``, at least 1.
        """
        if self.offsets is None:
            raise ValueError(f"feature {self.name!r} is {self.kind}: only multi can be padded")
        lengths = np.minimum(np.diff(self.offsets), max_length)
        width = max(int(lengths.max(initial=0)), 1)
        columns = np.arange(width)
        mask = columns < lengths[:, None]
        padded = np.full((len(lengths), width), PADDING, dtype=np.int32)
        padded[mask] = self.values[(self.offsets[:-1, None] + columns)[mask]]
        return padded


@dataclass(frozen=True)
class FeatureTable:
    """Feature columns by row; rows 0 and 1 (padding, unknown) are all-missing.

    Attributes:
        rows: number of rows, the two reserved ones included.
        columns: by name, in the source's order.
    """

    rows: int
    columns: Mapping[str, FeatureColumn] = field(default_factory=dict)

    @property
    def titles(self) -> pa.Array | None:
        """What people call each row: the first text column, one string a row; None where there is none."""
        return next((one.texts for one in self.columns.values() if one.kind is FeatureKind.TEXT), None)

    @classmethod
    def build(
        cls, frame: pl.DataFrame | None, key: str, vocabulary: Vocabulary, text_columns: Iterable[str] = ()
    ) -> FeatureTable:
        """Numbers a checked feature frame.

        Args:
            frame: one row an id, ``key`` unique; ids the vocabulary lacks are left out, ids of the vocabulary
                the frame lacks have missing values. List columns become multi, floats numeric, the rest
                categorical.
            key: the id column, ``"user_id"`` or ``"item_id"``.
            vocabulary: of the users, or of the items.
            text_columns: columns kept as text for display.
        """
        if frame is None:
            return cls(len(vocabulary))
        rows = vocabulary.rows(frame[key])
        known = np.flatnonzero(rows >= FIRST_ROW)
        source = np.full(len(vocabulary), -1, dtype=np.int64)
        source[rows[known]] = known
        # Null where a row has no source: gathering by a null index gives a null.
        take = pl.Series(source)
        aligned = frame.drop(key).select(pl.all().gather(pl.lit(take.set(take < 0, None))))
        texts = frozenset(text_columns)
        return cls(
            len(vocabulary),
            {column.name: _column(column, column.name in texts) for column in aligned.iter_columns()},
        )

    def __len__(self) -> int:
        return self.rows


def _column(values: pl.Series, is_text: bool) -> FeatureColumn:
    """One aligned column, nulls where missing."""
    name, dtype = values.name, values.dtype
    if is_text:
        texts = values.cast(pl.String).fill_null("").rechunk().to_arrow().cast(pa.large_string())
        return FeatureColumn(name, FeatureKind.TEXT, np.empty(0, dtype=np.int32), texts=texts)
    if dtype.is_float() or dtype.is_decimal():
        return FeatureColumn(name, FeatureKind.NUMERIC, values.cast(pl.Float32).fill_null(np.nan).to_numpy().copy())
    if isinstance(dtype, pl.List | pl.Array):
        lists = values.cast(pl.List(dtype.inner)).rechunk()
        lists = lists.list.drop_nulls()
        lengths = lists.list.len().fill_null(0).to_numpy()
        offsets = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        flat = lists.filter(pl.Series(lengths > 0)).explode()
        vocabulary, codes = Vocabulary.number(_category_ids(flat, name))
        return FeatureColumn(name, FeatureKind.MULTI, codes, offsets=offsets, vocabulary=vocabulary)
    vocabulary, codes = Vocabulary.number(_category_ids(values, name))
    return FeatureColumn(name, FeatureKind.CATEGORICAL, codes, vocabulary=vocabulary)


def _category_ids(values: pl.Series, name: str) -> pl.Series:
    """Category values as int64 or string; an empty string is a missing value."""
    if values.dtype == pl.Boolean or values.dtype.is_integer() or values.dtype == pl.Null:
        return values.cast(pl.Int64)
    if values.dtype == pl.String or isinstance(values.dtype, pl.Categorical | pl.Enum):
        text = values.cast(pl.String)
        return text.set(text == "", None)
    raise ValueError(
        f"feature column {name!r} has type {values.dtype}: cast it to String or Int64 (categorical), "
        "Float32 (numeric), or List of String or Int64 (multi-valued), or leave it out"
    )
