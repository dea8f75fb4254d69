"""CSV splits of FuxiCTR and the BARS benchmark: ``train.csv``, ``valid.csv``, ``test.csv`` with a label
column.

Rows labelled 1 become events, rows labelled 0 impressions, both with their part of the given split. These
files repeat user and item features in every row: a column that has one value for each user becomes a user
feature, one that has one value for each item an item feature; columns that change from row to row are
features of the request, which events do not carry, and are left out (named in ``source``). Features are
categorical; values that hold ``^``, FuxiCTR's separator of sequences, make a column multi-valued. Most of
these sets have no times: give a timestamp column where there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from corral.data.event_check import ID_COLUMNS, check_events
from corral.data.id_check import check_ids
from corral.data.interactions import ColumnMap, Interactions
from corral.data.readers.delimited import DelimitedTable, folder_of, needed_file, read_delimited
from corral.data.skipped_rows import Problems, SkippedRows

PARTS = ("train", "valid", "test")
SEQUENCE_SEPARATOR = "^"
DEFAULT_COLUMNS = ColumnMap(timestamp=None, label="label")


def read(
    path: str | Path,
    *,
    columns: ColumnMap = DEFAULT_COLUMNS,
    user_columns: Sequence[str] | None = None,
    item_columns: Sequence[str] | None = None,
    time_unit: str = "seconds",
    licence: str = "",
    skip_bad_rows: bool = False,
) -> Interactions:
    """Reads the three files of a split.

    Args:
        path: directory with ``train.csv``, ``valid.csv`` and ``test.csv`` (plain or ``.gz``).
        columns: which column is which; the label is needed.
        user_columns: user features; None finds them (see above).
        item_columns: item features; None finds them.
        time_unit: of the timestamps.
        licence: kept with the data.
        skip_bad_rows: drop, count and list bad rows instead of raising.

    Raises:
        ValueError: naming file, line, value and what to do; also where a named feature column has two values
            for one user (item).
        FileNotFoundError: a file is missing.
    """
    folder = Path(path)
    if folder_of(folder) != folder:
        raise ValueError(f"{folder}: give the directory of train.csv, valid.csv and test.csv, not one file")
    if columns.label is None:
        raise ValueError("BARS files are labelled: say which column is the label")
    wanted = columns.present()
    frames: list[pl.DataFrame] = []
    skipped = SkippedRows()
    for part, name in enumerate(PARTS):
        file = needed_file(folder, (f"{name}.csv",))
        table = read_delimited(file, ",", header=True, quoted=True, skip_bad_rows=skip_bad_rows)
        missing = [column for column in wanted.values() if column not in table.frame.columns]
        if missing:
            header = ", ".join(table.frame.columns)
            raise ValueError(f"{file}, line 1: no column {missing[0]!r}; the header has {header}; map the columns")
        if frames and frames[0].columns[:-1] != table.frame.columns:
            raise ValueError(f"{file}, line 1: the header is not that of {PARTS[0]}.csv; get the files again")
        table = _labelled(table, columns, skip_bad_rows)
        skipped += table.skipped
        frames.append(table.frame.with_columns(part=pl.lit(part, dtype=pl.Int8)))
    every = pl.concat(frames)
    events, _ = check_events(
        every.select(*(pl.col(column).alias(name) for name, column in wanted.items()), "part"),
        source=str(folder),
        text=True,
        names=wanted,
        time_unit=time_unit,
    )
    clicked = events["label"] == 1
    if not clicked.any():
        raise ValueError(f"{folder}: no row has the label 1")
    events = events.drop("label")
    # Of the rows as they stand: those of events may have been sorted.
    problems = Problems(str(folder), None, wanted)
    ids = [check_ids(every[wanted[key]], key, problems, text=True) for key in ID_COLUMNS]
    features = every.drop("part", *wanted.values()).with_columns(ids)
    users, items, left = _sides(features, folder, user_columns, item_columns)
    interactions = Interactions.of(
        events.filter(clicked),
        impressions=events.filter(~clicked),
        user_features=users,
        item_features=items,
        time_unit="order" if columns.timestamp is None else time_unit,
        source=str(folder),
        licence=licence,
        skip_bad_rows=skip_bad_rows,
        skipped=skipped,
    )
    unused = f" (left out, as they change from row to row: {', '.join(left)})" if left else ""
    return replace(interactions, source=f"FuxiCTR/BARS split, {folder.name}{unused}")


def _labelled(table: DelimitedTable, columns: ColumnMap, skip_bad_rows: bool) -> DelimitedTable:
    assert columns.label is not None, "checked by read"
    types: dict[str, type[pl.DataType]] = {columns.label: pl.Float32}
    if columns.value is not None:
        types[columns.value] = pl.Float32
    if columns.timestamp is not None:
        types[columns.timestamp] = pl.Float64
    required = list(columns.present().values())
    table = table.typed(types, required=required, skip_bad_rows=skip_bad_rows)
    label = table.frame[columns.label]
    problems = table.problems()
    problems.add(~label.is_in([0.0, 1.0]), columns.label, label, "not 0 or 1")
    return table.without(problems, skip_bad_rows)


def _sides(
    features: pl.DataFrame,
    folder: Path,
    user_columns: Sequence[str] | None,
    item_columns: Sequence[str] | None,
) -> tuple[pl.DataFrame | None, pl.DataFrame | None, list[str]]:
    """User features, item features, and the columns that are neither."""
    names = [name for name in features.columns if name not in ("user_id", "item_id")]
    for column in (*(user_columns or ()), *(item_columns or ())):
        if column not in names:
            raise ValueError(f"{folder}: no feature column {column!r}; there are {', '.join(names) or 'none'}")
    sides: list[pl.DataFrame | None] = []
    taken: set[str] = set()
    for key, given in (("user_id", user_columns), ("item_id", item_columns)):
        free = [name for name in names if name not in taken and name not in (item_columns or ())]
        found = list(given) if given is not None else [name for name in free if _one_each(features, key, name)]
        for column in given or ():
            if not _one_each(features, key, column):
                user_or_item, twice = key.removesuffix("_id"), _twice(features, key, column)
                raise ValueError(
                    f"{folder}: column {column!r} has two values for {key} {twice!r}, so it is no feature of "
                    f"a {user_or_item}; leave it out of {user_or_item}_columns"
                )
        taken.update(found)
        one = features.select(key, *found).unique(key, keep="first", maintain_order=True) if found else None
        sides.append(one if one is None else one.with_columns(_sequence(one[name]) for name in found))
    return sides[0], sides[1], [name for name in names if name not in taken]


def _one_each(features: pl.DataFrame, key: str, column: str) -> bool:
    """Whether ``column`` is a function of ``key``."""
    return features.select(key, column).n_unique() == features[key].n_unique()


def _twice(features: pl.DataFrame, key: str, column: str) -> object:
    pairs = features.select(key, column).unique(maintain_order=True)
    return pairs.filter(pl.col(key).is_duplicated())[key][0]


def _sequence(values: pl.Series) -> pl.Series:
    if values.str.contains(SEQUENCE_SEPARATOR, literal=True).any():
        return values.str.split(SEQUENCE_SEPARATOR)
    return values
