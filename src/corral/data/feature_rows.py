"""Feature tables as frames again, and new rows beside the old ones: what appending to a Dataset needs.

Shape letters: U rows of a vocabulary, the two reserved ones left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from corral.data.event_check import require_columns
from corral.data.features import FeatureColumn, FeatureKind, FeatureTable
from corral.data.id_check import check_ids_like, whole_numbers
from corral.data.skipped_rows import Problems
from corral.data.table_files import LoadedTable
from corral.data.vocabulary import FIRST_ROW, UNKNOWN, Vocabulary

_REASONS = {
    FeatureKind.NUMERIC: "the data set's values of this feature are numbers",
    FeatureKind.CATEGORICAL: "the data set's values of this feature are whole numbers",
    FeatureKind.MULTI: "the data set's values of this feature are lists of its kind",
}


def feature_frame(table: FeatureTable, key: str, vocabulary: Vocabulary) -> pl.DataFrame | None:
    """The frame [U] that ``FeatureTable.build`` makes the same table of; None where there are no features.

    Args:
        table: by row of the vocabulary.
        key: name of the id column.
        vocabulary: of the users, or of the items.
    """
    if not table.columns:
        return None
    ids = pl.from_arrow(vocabulary.ids)
    assert isinstance(ids, pl.Series)
    return pl.DataFrame([ids.alias(key), *(_values(column) for column in table.columns.values())])


def with_new_rows(
    frame: pl.DataFrame,
    table: FeatureTable,
    key: str,
    vocabulary: Vocabulary,
    new: LoadedTable,
    name: str,
) -> pl.DataFrame:
    """The old frame and, below it, the rows of a table of users (or items) that the vocabulary lacks.

    Args:
        frame: from ``feature_frame``.
        table: what it was made of.
        key: name of the id column.
        vocabulary: of the users, or of the items.
        new: the table; features that it lacks are missing values.
        name: of the id column in the new table; ``key`` is taken, too.

    Raises:
        ValueError: naming file, line, column, value and what to do: a feature that the Dataset does not have, a value
            of another kind, an id that comes twice or is there already.
    """
    rows = new.frame.rename({name: key}) if name in new.frame.columns else new.frame
    require_columns(rows.columns, [key], new.source)
    strange = [column for column in rows.columns if column not in frame.columns]
    if strange:
        raise ValueError(
            f"{new.source}: column {strange[0]!r}: no such {key[:4]} feature in the data set; it has "
            f"{', '.join(table.columns)}: leave the column out"
        )
    problems = Problems(new.source, new.line_of, {key: name}, may_skip=False)
    ids = check_ids_like(rows[key], key, problems, vocabulary.id_type, new.is_text)
    there = pl.Series(vocabulary.rows(ids) != UNKNOWN) & ids.is_not_null()
    problems.add(there, key, rows[key], "is in the data set already, whose features stay: leave the row out")
    problems.add(ids.is_not_null() & ~ids.is_first_distinct(), key, rows[key], "duplicate key: one row an id")
    columns = [ids.alias(key)]
    for column in table.columns.values():
        if column.name in rows.columns:
            columns.append(_like(rows[column.name], frame[column.name].dtype, column, problems))
    checked, _ = problems.settle(pl.DataFrame(columns), skip_bad_rows=False)
    # A feature that was missing everywhere has no kind yet: it takes that of the new rows.
    unset = [one.name for one in table.columns.values() if frame[one.name].dtype == pl.Null]
    frame = frame.with_columns(pl.col(one).cast(checked[one].dtype) for one in unset if one in checked.columns)
    return pl.concat([frame, checked], how="diagonal")


def refuse_without_row(frame: pl.DataFrame, key: str, ids: pl.Series, loaded: LoadedTable, name: str) -> None:
    """Raises ValueError for the first of the ids of new events that has no row among the features.

    Left out when the Dataset was made, or never there: nobody can tell, so nobody guesses.
    """
    problems = Problems(loaded.source, loaded.line_of, {key: name}, may_skip=False)
    reason = (
        f"is new, and the data set has {key[:4]} features: give its row with {key[:4]}_features (--{key[:4]}-features)"
    )
    problems.add(~ids.is_in(frame[key].implode()), key, ids, reason)
    problems.settle(ids.to_frame(), skip_bad_rows=False)


def _values(column: FeatureColumn) -> pl.Series:
    """A column without the reserved rows, null where missing."""
    if column.kind is FeatureKind.TEXT:
        assert column.texts is not None
        values: Any = column.texts[FIRST_ROW:]
    elif column.kind is FeatureKind.NUMERIC:
        values = pl.Series(np.asarray(column.values[FIRST_ROW:])).to_arrow()
    elif column.kind is FeatureKind.CATEGORICAL:
        values = _decoded(column, column.values[FIRST_ROW:])
    else:
        assert column.offsets is not None
        values = pa.LargeListArray.from_arrays(
            pl.Series(np.asarray(column.offsets[FIRST_ROW:])).to_arrow(), _decoded(column, column.values)
        )
    series = pl.from_arrow(values)
    assert isinstance(series, pl.Series)
    if column.kind is FeatureKind.CATEGORICAL and series.null_count() == len(series):
        series = pl.Series([None] * len(series), dtype=pl.Null)
    return series.alias(column.name)


def _decoded(column: FeatureColumn, codes: np.ndarray) -> pa.Array:
    """The values that codes stand for; null for the reserved ones."""
    assert column.vocabulary is not None
    return column.vocabulary.taken(codes)


def _like(values: pl.Series, dtype: pl.DataType, column: FeatureColumn, problems: Problems) -> pl.Series:
    """New values of a feature in its type; those that do not fit are noted in ``problems``."""
    if dtype == pl.Null:
        return values
    if column.kind is FeatureKind.NUMERIC:
        cast = values.cast(pl.Float64, strict=False).cast(dtype)
    elif (
        (dtype == pl.String and isinstance(values.dtype, pl.List))
        or values.dtype.is_float()
        or isinstance(dtype, pl.List) != isinstance(values.dtype, pl.List)
    ):
        cast = pl.Series(values.name, [None] * len(values), dtype=dtype)
    elif dtype == pl.Int64 and values.dtype == pl.String:
        cast = whole_numbers(values)  # 007 is a code, not 7
    else:
        cast = values.cast(dtype, strict=False)
    bad = values.is_not_null() & cast.is_null()
    problems.add(bad, column.name, values, _REASONS.get(column.kind, "does not fit the data set's values"))
    return cast
