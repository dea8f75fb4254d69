"""Vocabulary: external ids <-> rows. Row 0 is padding and row 1 unknown: decided here and nowhere else.

Between arrow and numpy by DLPack and polars: ``pyarrow.array``, ``Array.to_numpy`` and every conversion of a Python
value import pandas wherever it is installed (.4 s, 35 MB).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from corral.data.arrow_file import open_arrow_column, write_arrow_column

PADDING = 0
UNKNOWN = 1
FIRST_ROW = 2

# A lookup table for int ids is used while it has at most this many entries per id (and never above the cap):
# it then stays comparable in size to the ids themselves.
_TABLE_ENTRIES_PER_ID = 4
_TABLE_ENTRIES_FREE = 1 << 22
_TABLE_ENTRIES_MAX = 1 << 28


class Vocabulary:
    """Sorted, unique external ids; real row r stands for ``ids[r - FIRST_ROW]``.

    Attributes:
        ids: pyarrow array, int64 or large_string, ascending (strings by code point), unique, without nulls.
    """

    def __init__(self, ids: pa.Array) -> None:
        if isinstance(ids, pa.ChunkedArray):
            ids = ids.combine_chunks()
        if pa.types.is_integer(ids.type):
            ids = ids.cast(pa.int64())
        elif pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type):
            ids = ids.cast(pa.large_string())
        elif pa.types.is_null(ids.type):
            ids = ids.cast(pa.int64())
        else:
            raise ValueError(f"ids of type {ids.type}: a vocabulary holds int64 or string ids")
        self.ids = ids

    def __len__(self) -> int:
        """Number of rows, the two reserved ones included."""
        return len(self.ids) + FIRST_ROW

    def __repr__(self) -> str:
        return f"Vocabulary({len(self.ids)} {self.id_type} ids)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.ids.equals(other.ids)

    __hash__ = None  # type: ignore[assignment]

    @property
    def id_type(self) -> str:
        """``"int64"`` or ``"string"``."""
        return "int64" if pa.types.is_int64(self.ids.type) else "string"

    def parse(self, text: str, what: str) -> int | str:
        """The id that a text of a person means; ``what`` it is of, for the refusal.

        Raises:
            ValueError: the ids are numbers, and this is none.
        """
        if self.id_type == "string":
            return text
        try:
            return int(text)
        except ValueError as error:
            raise ValueError(f"{what} {text[:100]!r}: the ids of this data set are whole numbers") from error

    @classmethod
    def of(cls, values: pl.Series) -> Vocabulary:
        """The vocabulary of the distinct, non-null values of an integer or string series."""
        return cls.number(values)[0]

    @classmethod
    def number(cls, values: pl.Series) -> tuple[Vocabulary, np.ndarray]:
        """The vocabulary of ``values`` and their rows, in one pass over the ids.

        Args:
            values: [n] integer or string series; nulls get row PADDING.

        Returns:
            The vocabulary, and the row of every value, int32 [n].
        """
        if not (values.dtype.is_integer() or values.dtype == pl.String or values.dtype == pl.Null):
            raise ValueError(f"ids of type {values.dtype}: a vocabulary holds int64 or string ids")
        if values.dtype.is_integer() and values.null_count() == 0 and len(values):
            ids = values.cast(pl.Int64).to_numpy()
            low, high = int(ids.min()), int(ids.max())
            if _table_fits(high - low + 1, len(ids)):
                return _number_dense(cls, ids, low, high)
        if values.dtype.is_integer() or values.dtype == pl.Null:
            values = values.cast(pl.Int64)
        encoded = pc.dictionary_encode(values.rechunk().to_arrow())
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        order = pc.sort_indices(encoded.dictionary)
        ranks = np.empty(len(order) + 1, dtype=np.int32)
        ranks[np.from_dlpack(order)] = np.arange(FIRST_ROW, len(order) + FIRST_ROW, dtype=np.int32)
        ranks[-1] = PADDING
        codes = pl.Series(encoded.indices).fill_null(len(order)).to_numpy()
        return cls(encoded.dictionary.take(order)), ranks[codes]

    def rows(self, ids: Sequence[Any] | np.ndarray | pa.Array | pl.Series) -> np.ndarray:
        """Rows of external ids, int32 [n]; an id the vocabulary lacks, and a null, has row 1 (UNKNOWN).

        Raises:
            ValueError: an id's type is not the vocabulary's (a string asked of int64 ids, or the reverse):
                such an id would be unknown for ever, which nobody means.
        """
        wanted = _as_arrow(ids, self.id_type)
        if not len(self.ids) or not len(wanted):
            return np.full(len(wanted), UNKNOWN, dtype=np.int32)
        # Building a hash table costs one pass over the whole vocabulary: not for the few ids of a request.
        few = len(wanted) * 16 < len(self.ids)
        if self.id_type == "int64" and (few or self._table_span is not None):
            return self._rows_int(wanted, few)
        if few:
            return np.fromiter((self._find(value) for value in wanted.to_pylist()), np.int32, len(wanted))
        found = pc.index_in(wanted, value_set=self.ids, skip_nulls=True)
        return (pl.Series(found).fill_null(UNKNOWN - FIRST_ROW).to_numpy() + FIRST_ROW).astype(np.int32)

    def rows_in(self, other: Vocabulary) -> np.ndarray:
        """Where each row here, the reserved ones included, is in ``other``: int32 [rows]; UNKNOWN: it lacks the id."""
        return np.concatenate([np.arange(FIRST_ROW, dtype=np.int32), other.rows(self.ids)])

    def external(self, rows: Iterable[int] | np.ndarray) -> list[Any]:
        """External ids of rows [n], None for rows 0 and 1.

        Raises:
            IndexError: a row is negative or past the last one.
        """
        array = np.asarray(rows if isinstance(rows, np.ndarray) else list(rows), dtype=np.int64).reshape(-1)
        if len(array) and (array.min() < 0 or array.max() >= len(self)):
            bad = array[(array < 0) | (array >= len(self))][0]
            raise IndexError(f"row {bad} is outside the vocabulary's {len(self)} rows")
        if self.id_type == "int64" and not (array < FIRST_ROW).any():
            # Several times faster for the few ids of a request.
            return cast(list[Any], np.from_dlpack(self.ids)[array - FIRST_ROW].tolist())
        return self.taken(array).to_pylist()

    def taken(self, rows: np.ndarray) -> pa.Array:
        """The ids of rows [n], in arrow; null for rows 0 and 1."""
        places = pl.Series(rows.astype(np.int64) - FIRST_ROW)
        return self.ids.take(places.set(places < 0, None).to_arrow())

    def only(self, keep: np.ndarray) -> Vocabulary:
        """The ids of the rows where ``keep`` [rows] (bool) is true, the reserved rows beside them."""
        return Vocabulary(self.ids.take(np.flatnonzero(keep[FIRST_ROW:])))

    def save(self, path: str | Path) -> None:
        """Writes the ids as one Arrow IPC file."""
        with open(path, "wb") as stream:
            write_arrow_column(stream, "id", self.ids)

    @classmethod
    def open(cls, path: str | Path) -> Vocabulary:
        """The vocabulary in an Arrow IPC file, memory-mapped.

        Raises:
            ValueError: the file is no vocabulary, or damaged.
        """
        return cls(open_arrow_column(path, "id"))

    @property
    def _table_span(self) -> int | None:
        """Length of the lookup table of dense int ids, None where the ids are too sparse for one."""
        span = self.ids[-1].as_py() - self.ids[0].as_py() + 1
        return span if _table_fits(span, len(self.ids)) else None

    def _rows_int(self, wanted: pa.Array, few: bool) -> np.ndarray:
        ids = np.from_dlpack(self.ids)
        values = pl.Series(wanted).fill_null(0).to_numpy()
        if few or self._table_span is None:
            place = np.minimum(np.searchsorted(ids, values), len(ids) - 1)
            rows = np.where(ids[place] == values, place + FIRST_ROW, UNKNOWN).astype(np.int32)
        else:
            table = np.full(self._table_span, UNKNOWN, dtype=np.int32)
            table[ids - ids[0]] = np.arange(FIRST_ROW, len(self), dtype=np.int32)
            inside = (values >= ids[0]) & (values <= ids[-1])
            rows = np.where(inside, table[np.where(inside, values - ids[0], 0)], np.int32(UNKNOWN))
        if wanted.null_count:
            rows[pl.Series(wanted.is_null()).to_numpy()] = UNKNOWN
        return rows

    def _find(self, value: Any) -> int:
        """Row of one id by bisection."""
        low, high = 0, len(self.ids)
        if value is None:
            return UNKNOWN
        while low < high:
            middle = (low + high) // 2
            if self.ids[middle].as_py() < value:
                low = middle + 1
            else:
                high = middle
        return low + FIRST_ROW if low < len(self.ids) and self.ids[low].as_py() == value else UNKNOWN


def _table_fits(span: int, count: int) -> bool:
    return span <= min(max(_TABLE_ENTRIES_PER_ID * count, _TABLE_ENTRIES_FREE), _TABLE_ENTRIES_MAX)


def _number_dense(cls: type[Vocabulary], ids: np.ndarray, low: int, high: int) -> tuple[Vocabulary, np.ndarray]:
    offsets = ids - low if low else ids
    present = np.zeros(high - low + 1, dtype=bool)
    present[offsets] = True
    table = np.cumsum(present, dtype=np.int32)
    table += FIRST_ROW - 1
    return cls(pl.Series(np.flatnonzero(present).astype(np.int64) + low).to_arrow()), table[offsets]


def _as_arrow(ids: Any, id_type: str) -> pa.Array:
    """Ids from outside as an arrow array of the vocabulary's type."""
    if isinstance(ids, str | bytes):
        raise ValueError(f"ids must be a sequence of ids, got the single string {ids!r}: pass [{ids!r}]")
    if isinstance(ids, Mapping) or hasattr(ids, "columns"):
        raise ValueError(f"ids must be a sequence of ids, got a table ({type(ids).__name__}): pass its column of ids")
    if isinstance(ids, pl.Series):
        array = ids.rechunk().to_arrow()
    elif isinstance(ids, pa.Array | pa.ChunkedArray):
        array = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    elif isinstance(ids, np.ndarray) and ids.dtype.kind in "iuf":
        array = pl.Series(np.ascontiguousarray(ids.reshape(-1))).to_arrow()
    else:
        return _list_as_arrow(list(ids), id_type)
    if isinstance(array, pa.DictionaryArray):
        array = array.dictionary_decode()
    kind = array.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if id_type == "string" and is_text:
        return array.cast(pa.large_string())
    if id_type == "int64" and kind == pa.int64():
        return array
    if id_type == "int64" and pa.types.is_signed_integer(kind):
        return array.cast(pa.int64())
    if pa.types.is_null(kind):
        return array.cast(pa.int64() if id_type == "int64" else pa.large_string())
    return _list_as_arrow(array.to_pylist(), id_type)


def _list_as_arrow(values: list[Any], id_type: str) -> pa.Array:
    """Python ids, one by one: whole floats and numpy scalars are accepted, another type is refused."""
    checked: list[int | str | None] = []
    for value in values:
        if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
            checked.append(None)
        elif id_type == "string" and isinstance(value, str):
            checked.append(str(value))
        elif (
            id_type == "int64"
            and isinstance(value, int | float | np.integer | np.floating)
            and not isinstance(value, bool)
            and math.isfinite(value)
            and value == int(value)
        ):
            number = int(value)
            checked.append(number if -(2**63) <= number < 2**63 else None)
        else:
            raise ValueError(
                f"id {value!r} is a {type(value).__name__}, but the ids of this data set are {id_type}: "
                f"pass {'integers' if id_type == 'int64' else 'strings'}"
            )
    series = pl.Series(checked, dtype=pl.Int64 if id_type == "int64" else pl.String)
    return series.to_arrow().cast(pa.int64() if id_type == "int64" else pa.large_string())
