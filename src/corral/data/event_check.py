"""The one place where events and feature tables from outside are checked."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import polars as pl

MAX_EXAMPLES = 10
MAX_EXACT_FLOAT = 2**53
ID_COLUMNS = ("user_id", "item_id")
PARTS = {"train": 0, "valid": 1, "validation": 1, "val": 1, "test": 2}

LineOf = int | Callable[[int], int] | None
"""Where row i (from 0) of a frame stands in its file: line ``i + n``, line ``f(i)``, or unknown."""


@dataclass(frozen=True)
class SkippedRow:
    """One bad row that was dropped.

    Attributes:
        file: where it came from.
        row: its line in a text file (from 1), else its row (from 0).
        column: the column that was bad.
        value: the bad value, as text.
        reason: what is wrong with it.
    """

    file: str
    row: int
    column: str
    value: str
    reason: str


@dataclass(frozen=True)
class SkippedRows:
    """How many bad rows were dropped, and the first of them."""

    count: int = 0
    examples: tuple[SkippedRow, ...] = ()

    def __add__(self, other: SkippedRows) -> SkippedRows:
        return SkippedRows(self.count + other.count, (self.examples + other.examples)[:MAX_EXAMPLES])

    def __str__(self) -> str:
        lines = [f"{self.count} bad rows skipped" + (", the first:" if self.examples else "")]
        lines += [
            f"  {e.file}, row {e.row}, column {e.column!r}: {e.value}: {e.reason}" for e in self.examples
        ]
        return "\n".join(lines)


@dataclass
class _Problems:
    """Bad rows found so far, column by column."""

    source: str
    line_of: LineOf
    names: dict[str, str]
    found: list[tuple[np.ndarray, str, pl.Series, str]] = field(default_factory=list)

    def add(self, bad: pl.Series, column: str, raw: pl.Series, reason: str) -> None:
        rows = bad.fill_null(False).arg_true().to_numpy()
        if len(rows):
            self.found.append((rows, self.names.get(column, column), raw, reason))

    def examples(self) -> list[SkippedRow]:
        """The first bad rows in the file's order, one reason a row."""
        first: dict[int, SkippedRow] = {}
        for rows, column, raw, reason in self.found:
            for row in rows[:MAX_EXAMPLES].tolist():
                if row not in first:
                    first[row] = SkippedRow(
                        self.source, _place(self.line_of, row), column, _show(raw[row]), reason
                    )
        return [first[row] for row in sorted(first)][:MAX_EXAMPLES]

    def settle(self, frame: pl.DataFrame, skip_bad_rows: bool) -> tuple[pl.DataFrame, SkippedRows]:
        """Drops the bad rows, or raises for the first one."""
        if not self.found:
            return frame, SkippedRows()
        bad = np.unique(np.concatenate([rows for rows, *_ in self.found]))
        examples = self.examples()
        if not skip_bad_rows:
            one = examples[0]
            where = "row" if self.line_of is None else "line"
            origin = " (from 0)" if self.line_of is None else ""
            more = f" {len(bad)} rows are bad in all." if len(bad) > 1 else ""
            raise ValueError(
                f"{self.source}, {where} {one.row}{origin}, column {one.column!r}: {one.value}: {one.reason}.{more} "
                "Correct the data, or pass skip_bad_rows=True (--skip-bad-rows) to drop and list such rows"
            )
        keep = np.ones(len(frame), dtype=bool)
        keep[bad] = False
        return frame.filter(pl.Series(keep)), SkippedRows(len(bad), tuple(examples))


def check_events(
    frame: pl.DataFrame,
    *,
    source: str,
    line_offset: LineOf = None,
    skip_bad_rows: bool = False,
    text: bool = False,
    names: dict[str, str] | None = None,
) -> tuple[pl.DataFrame, SkippedRows]:
    """Checks and types events; every reader's events pass through here.

    Args:
        frame: columns user_id and item_id, optional timestamp, value (rating, quantity, ...), part (given
            split) and label (1 clicked, 0 shown and not clicked); others are left out. Without timestamp the row order becomes the time.
        source: the file's name, for messages.
        line_offset: row i (from 0) is line ``i + line_offset`` of the file (2 for a CSV with a header), or
            ``line_offset(i)`` if callable; None for frames.
        skip_bad_rows: drop bad rows, count them and list the first, instead of raising.
        text: the columns come from a text file as strings: ids are then int64 if every one is a plain
            integer, else strings.
        names: the columns' names in the file, for messages.

    Returns:
        The events, user_id and item_id Int64 or String, timestamp Int64 >= 0, value Float32, part Int8
        (0 train, 1 valid, 2 test), label Int8; and what was skipped.

    Raises:
        ValueError: naming source, line or row, column, value and what to do.
    """
    names = names or {}
    require_columns(frame.columns, ID_COLUMNS, source)
    if frame.is_empty():
        raise ValueError(f"{source}: no events: the table has no rows")
    problems = _Problems(source, line_offset, names)
    columns = [check_ids(frame[column], column, problems, text) for column in ID_COLUMNS]
    if "timestamp" in frame.columns:
        columns.append(_check_time(frame["timestamp"], problems))
    else:
        columns.append(pl.int_range(len(frame), dtype=pl.Int64, eager=True).alias("timestamp"))
    if "value" in frame.columns:
        columns.append(_check_value(frame["value"], problems))
    if "part" in frame.columns:
        columns.append(_check_part(frame["part"], problems))
    if "label" in frame.columns:
        columns.append(_check_label(frame["label"], problems))
    checked, skipped = problems.settle(pl.DataFrame(columns), skip_bad_rows)
    if checked.is_empty():
        raise ValueError(f"{source}: no events left: all {skipped.count} rows are bad. {skipped}")
    return checked, skipped


def check_features(
    frame: pl.DataFrame,
    key: str,
    *,
    source: str,
    line_offset: LineOf = None,
    skip_bad_rows: bool = False,
    text: bool = False,
) -> tuple[pl.DataFrame, SkippedRows]:
    """Checks a feature table: ``key`` (user_id or item_id) present, without nulls, unique.

    Raises:
        ValueError: naming source, line or row, column, value and what to do.
    """
    require_columns(frame.columns, [key], source)
    problems = _Problems(source, line_offset, {})
    ids = check_ids(frame[key], key, problems, text)
    repeated = ids.is_not_null() & ~ids.is_first_distinct()
    problems.add(repeated, key, frame[key], "duplicate key: a feature table has one row an id")
    return problems.settle(frame.with_columns(ids), skip_bad_rows)


def require_columns(present: list[str], needed: list[str] | tuple[str, ...], source: str) -> None:
    """Raises ValueError for the first needed column that is absent, naming the nearest present one."""
    for column in needed:
        if column not in present:
            raise ValueError(
                f"{source}: no column {column!r}; the columns are {', '.join(map(repr, present))}. "
                f"{_nearest(column, present)}Say which column is which with ColumnMap(user=..., item=..., timestamp=...)"
            )


def check_ids(values: pl.Series, column: str, problems: _Problems, text: bool = False) -> pl.Series:
    """Ids as Int64 or String, null where bad (and then noted in ``problems``)."""
    dtype = values.dtype
    if dtype == pl.Object:
        values = _from_objects(values, column, problems)
        dtype = values.dtype
    if dtype.is_integer():
        ids = values if dtype == pl.Int64 else values.cast(pl.Int64, strict=False)
        if dtype == pl.UInt64:
            problems.add(
                values.is_not_null() & ids.is_null(), column, values, "does not fit into int64; use strings"
            )
    elif dtype.is_float():
        ids = _whole_floats(values, column, problems)
    elif dtype == pl.String or isinstance(dtype, pl.Categorical | pl.Enum):
        ids = values.cast(pl.String)
        ids = ids.set(ids == "", None) if (ids == "").any() else ids
        if text:
            ids = _ids_of_text(ids)
    elif dtype == pl.Null:
        ids = values.cast(pl.String)
    else:
        name = problems.names.get(column, column)
        raise ValueError(
            f"{problems.source}: column {name!r} has type {dtype}: ids are integers or strings; cast it"
        )
    if values.null_count() or ids.null_count():
        noted = np.zeros(len(values), dtype=bool)
        for rows, noted_column, *_ in problems.found:
            if noted_column == problems.names.get(column, column):
                noted[rows] = True
        problems.add(ids.is_null() & ~pl.Series(noted), column, values, "missing id")
    return ids.alias(column)


def _whole_floats(values: pl.Series, column: str, problems: _Problems) -> pl.Series:
    """Float ids (a column of ints that once had gaps) as ints, if every one is whole."""
    values = values.cast(pl.Float64).fill_nan(None)
    good = values.is_finite() & (values == values.floor()) & (values.abs() <= MAX_EXACT_FLOAT)
    reason = "ids must be integers or strings: a float id is accepted only if it is whole and at most 2^53"
    problems.add(values.is_not_null() & ~good, column, values, reason)
    return values.set(~good, None).cast(pl.Int64)


def _ids_of_text(ids: pl.Series) -> pl.Series:
    """Int64 if every id in a text column is a plain integer (17850, also 17850.0, not 007), else the strings."""
    present = ids.set(ids.str.to_lowercase().is_in(["nan", "null", "none", "na"]), None)
    plain = present.str.contains(r"^(-?[1-9]\d{0,17}|0)$")
    if plain.all():
        return present.cast(pl.Int64)
    if present.str.contains(r"^(-?[1-9]\d{0,14}|0)(\.0+)?$").all() and present.null_count() < len(present):
        return present.str.replace(r"\.0+$", "").cast(pl.Int64)
    return ids


def _from_objects(values: pl.Series, column: str, problems: _Problems) -> pl.Series:
    """A column of Python objects: one type is accepted, a mixture is refused."""
    objects = values.to_list()
    kinds = ["" if _is_missing(value) else _kind(value) for value in objects]
    present = [kind for kind in kinds if kind]
    main = max(dict.fromkeys(present), key=present.count, default="string")
    if main not in ("integer", "string"):
        bad = pl.Series([kind == main for kind in kinds])
        problems.add(bad, column, values, f"a {main} is not an id: ids are integers or strings")
    other = pl.Series([bool(kind) and kind != main for kind in kinds])
    reason = (
        f"ids of mixed type: this one is not a {main} as most are; make all of them strings, or all integers"
    )
    problems.add(other, column, values, reason)
    good = [
        v if kind == main and main in ("integer", "string") else None
        for v, kind in zip(objects, kinds, strict=True)
    ]
    if main == "integer":
        return pl.Series(values.name, [None if v is None else int(v) for v in good], dtype=pl.Int64)
    return pl.Series(values.name, [None if v is None else str(v) for v in good], dtype=pl.String)


def _kind(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "bool"
    if isinstance(value, int | np.integer) or (
        isinstance(value, float | np.floating) and float(value).is_integer()
    ):
        return "integer"
    return "string" if isinstance(value, str) else type(value).__name__


def _is_missing(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float | np.floating) and bool(np.isnan(value)))


def _check_time(values: pl.Series, problems: _Problems) -> pl.Series:
    """Times as Int64 >= 0: ints as they are, floats rounded down, dates as seconds since 1970 (UTC)."""
    dtype = values.dtype
    if dtype == pl.Object:
        values = pl.Series(values.name, [None if _is_missing(v) else str(v) for v in values], dtype=pl.String)
        dtype = values.dtype
    reason = "not a time: expected a number, or a date such as 2011-12-09 12:50:00"
    if dtype.is_integer():
        times = values if dtype == pl.Int64 else values.cast(pl.Int64, strict=False)
    elif dtype.is_float() or dtype.is_decimal():
        times = _floor(values)
        reason = "not a finite time"
    elif isinstance(dtype, pl.Datetime | pl.Date):
        times = values.cast(pl.Datetime("us")).dt.epoch("s") if dtype == pl.Date else values.dt.epoch("s")
    elif dtype == pl.String:
        times = values.cast(pl.Int64, strict=False)
        if times.null_count():
            times = times.zip_with(times.is_not_null(), _floor(values.cast(pl.Float64, strict=False)))
        if times.null_count() == len(times):
            times = values.str.to_datetime(strict=False, time_unit="us", time_zone="UTC").dt.epoch("s")
    elif dtype == pl.Null:
        times = values.cast(pl.Int64)
    else:
        name = problems.names.get("timestamp", "timestamp")
        raise ValueError(
            f"{problems.source}: column {name!r} has type {dtype}: times are numbers or dates; cast it"
        )
    if times.null_count():
        problems.add(values.is_null(), "timestamp", values, "missing time")
        problems.add(values.is_not_null() & times.is_null(), "timestamp", values, reason)
    lowest = times.min()
    if lowest is not None and lowest < 0:  # type: ignore[operator]
        problems.add(
            times < 0, "timestamp", values, "negative time: times count from 1970 (or any start) upwards"
        )
    return times.alias("timestamp")


def _floor(values: pl.Series) -> pl.Series:
    values = values.cast(pl.Float64)
    return values.floor().set(~values.is_finite(), None).cast(pl.Int64, strict=False)


def _check_value(values: pl.Series, problems: _Problems) -> pl.Series:
    if values.dtype == pl.Object:
        values = pl.Series(values.name, [None if _is_missing(v) else str(v) for v in values], dtype=pl.String)
    numbers = values.cast(pl.Float32, strict=False)
    if numbers.null_count() or not numbers.is_finite().all():
        bad = ~numbers.is_finite().fill_null(False)
        problems.add(bad, "value", values, "not a finite number")
    return numbers.alias("value")


def _check_part(values: pl.Series, problems: _Problems) -> pl.Series:
    if values.dtype.is_integer() or values.dtype.is_float():
        parts = values.cast(pl.Int64, strict=False)
    else:
        text = values.cast(pl.String)
        known = text.str.to_lowercase().replace_strict(PARTS, default=None, return_dtype=pl.Int64)
        parts = known.zip_with(known.is_not_null(), text.cast(pl.Int64, strict=False))
    bad = ~parts.is_in([0, 1, 2]).fill_null(False)
    problems.add(bad, "part", values, "not a part: expected train, valid or test (0, 1 or 2)")
    return parts.set(bad, None).cast(pl.Int8).alias("part")


def _check_label(values: pl.Series, problems: _Problems) -> pl.Series:
    labels = values.cast(pl.Float64, strict=False)
    bad = ~labels.is_in([0.0, 1.0]).fill_null(False)
    problems.add(bad, "label", values, "not a label: expected 1 (clicked) or 0 (shown, not clicked)")
    return labels.set(bad, None).cast(pl.Int8).alias("label")


def _nearest(column: str, present: list[str]) -> str:
    """A hint at the present column that looks most like ``column``, ignoring case and separators."""
    plain = {name.lower().replace("_", "").replace("-", "").replace(" ", ""): name for name in present}
    wanted = column.lower().replace("_", "").replace("-", "").replace(" ", "")
    close = difflib.get_close_matches(wanted, list(plain), n=1, cutoff=0.3)
    return f"The nearest is {plain[close[0]]!r}. " if close else ""


def _place(line_of: LineOf, row: int) -> int:
    if line_of is None:
        return row
    return line_of(row) if callable(line_of) else row + line_of


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
