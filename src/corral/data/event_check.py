"""The one place where events and feature tables from outside are checked."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping

import polars as pl

from corral.data.id_check import check_ids, is_missing
from corral.data.skipped_rows import LineOf, Problems, SkippedRows
from corral.data.time_check import check_time

ID_COLUMNS = ("user_id", "item_id")
PARTS = {"train": 0, "valid": 1, "validation": 1, "val": 1, "test": 2}


def check_events(
    frame: pl.DataFrame,
    *,
    source: str,
    line_offset: LineOf = None,
    skip_bad_rows: bool = False,
    text: bool = False,
    names: dict[str, str] | None = None,
    event_weights: Mapping[str, float] | None = None,
    time_unit: str = "seconds",
    fixed_unit: bool = False,
) -> tuple[pl.DataFrame, SkippedRows]:
    """Checks and types events; every reader's events pass through here.

    Args:
        frame: columns user_id and item_id, optional timestamp, value (rating, quantity, ...), part (given
            split), label (1 clicked, 0 shown and not clicked), weight (>= 0) and event_type; others are left out.
            Without timestamp the row order becomes the time; among equal times it is kept.
        source: the file's name, for messages.
        line_offset: row i (from 0) is line ``i + line_offset`` of the file (2 for a CSV with a header), or
            ``line_offset(i)`` if callable; None for frames.
        skip_bad_rows: drop bad rows, count them and list the first, instead of raising.
        text: the columns come from a text file as strings: ids are then int64 if every one is a plain
            integer, else strings.
        names: the columns' names in the file, for messages.
        event_weights: the weight of each event type; event_type then becomes weight.
        time_unit: of the timestamps; dates are brought to it.
        fixed_unit: it is that of a data set which is there already, and cannot be chosen.

    Returns:
        The events, user_id and item_id Int64 or String, timestamp Int64 >= 0, value Float32, part Int8
        (0 train, 1 valid, 2 test), label Int8, weight Float32; and what was skipped.

    Raises:
        ValueError: naming source, line or row, column, value and what to do.
    """
    require_columns(frame.columns, ID_COLUMNS, source)
    if frame.is_empty():
        raise ValueError(f"{source}: no events: the table has no rows")
    problems = Problems(source, line_offset, names or {})
    checked, skipped = check_rows(frame, problems, skip_bad_rows, text, event_weights, time_unit, fixed_unit)
    if checked.is_empty():
        raise ValueError(f"{source}: no events left: all {skipped.count} rows are bad. {skipped}")
    return checked, skipped


def check_rows(
    frame: pl.DataFrame,
    problems: Problems,
    skip_bad_rows: bool,
    text: bool = False,
    event_weights: Mapping[str, float] | None = None,
    time_unit: str = "seconds",
    fixed_unit: bool = False,
) -> tuple[pl.DataFrame, SkippedRows]:
    """Checks and types some rows of a table of events, as ``check_events`` does; they may all be bad.

    Where times are rounded down, the rows come sorted by what they were: of events within one unit, the order is kept.
    """
    order: pl.Series | None = None
    columns = [check_ids(frame[column], column, problems, text) for column in ID_COLUMNS]
    if "timestamp" in frame.columns:
        times, order = check_time(frame["timestamp"], problems, time_unit, fixed_unit)
        columns.append(times)
    else:
        columns.append(pl.int_range(len(frame), dtype=pl.Int64, eager=True).alias("timestamp"))
    if "value" in frame.columns:
        columns.append(_check_value(frame["value"], problems))
    if "part" in frame.columns:
        columns.append(_check_part(frame["part"], problems))
    if "label" in frame.columns:
        columns.append(_check_label(frame["label"], problems))
    if "event_type" in frame.columns:
        if "weight" in frame.columns or not event_weights:
            raise ValueError(
                f"{problems.source}: an event type needs the weight of each type (view=0.1,purchase=1), and no column "
                "of weights"
            )
        columns.append(_weights_of_types(frame["event_type"], event_weights, problems))
    elif "weight" in frame.columns:
        columns.append(_check_weight(frame["weight"], problems))
    checked = pl.DataFrame(columns)
    if order is None:
        return problems.settle(checked, skip_bad_rows)
    checked, skipped = problems.settle(checked.with_columns(order.alias("order")), skip_bad_rows)
    return checked.sort("order", maintain_order=True).drop("order"), skipped


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
    problems = Problems(source, line_offset, {})
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
                f"{_nearest(column, present)}Say which column is which with "
                "ColumnMap(user=..., item=..., timestamp=...)"
            )


def _check_value(values: pl.Series, problems: Problems) -> pl.Series:
    if values.dtype == pl.Object:
        values = pl.Series(values.name, [None if is_missing(v) else str(v) for v in values], dtype=pl.String)
    numbers = values.cast(pl.Float32, strict=False)
    if numbers.null_count() or not numbers.is_finite().all():
        bad = ~numbers.is_finite().fill_null(False)
        problems.add(bad, "value", values, "not a finite number")
    return numbers.alias("value")


def _check_part(values: pl.Series, problems: Problems) -> pl.Series:
    if values.dtype.is_integer() or values.dtype.is_float():
        parts = values.cast(pl.Int64, strict=False)
    else:
        text = values.cast(pl.String)
        known = text.str.to_lowercase().replace_strict(PARTS, default=None, return_dtype=pl.Int64)
        parts = known.zip_with(known.is_not_null(), text.cast(pl.Int64, strict=False))
    bad = ~parts.is_in([0, 1, 2]).fill_null(False)
    problems.add(bad, "part", values, "not a part: expected train, valid or test (0, 1 or 2)")
    return parts.set(bad, None).cast(pl.Int8).alias("part")


def _check_label(values: pl.Series, problems: Problems) -> pl.Series:
    labels = values.cast(pl.Float64, strict=False)
    bad = ~labels.is_in([0.0, 1.0]).fill_null(False)
    problems.add(bad, "label", values, "not a label: expected 1 (clicked) or 0 (shown, not clicked)")
    return labels.set(bad, None).cast(pl.Int8).alias("label")


def _check_weight(values: pl.Series, problems: Problems) -> pl.Series:
    weights = values.cast(pl.Float32, strict=False)
    bad = ~(weights.is_finite() & (weights >= 0)).fill_null(False)
    problems.add(bad, "weight", values, "not a weight: expected a finite number, 0 or more")
    return weights.set(bad, None).alias("weight")


def _weights_of_types(types: pl.Series, event_weights: Mapping[str, float], problems: Problems) -> pl.Series:
    for name, weight in event_weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight of event type {name!r}: {weight}: expected a finite number, 0 or more")
    text = types.cast(pl.String)
    weights = text.replace_strict(dict(event_weights), default=None, return_dtype=pl.Float32)
    known = ", ".join(map(repr, event_weights))
    problems.add(weights.is_null(), "event_type", types, f"no weight is given for this type; known are {known}")
    return weights.alias("weight")


def _nearest(column: str, present: list[str]) -> str:
    """A hint at the present column that looks most like ``column``, ignoring case and separators."""
    plain = {name.lower().replace("_", "").replace("-", "").replace(" ", ""): name for name in present}
    wanted = column.lower().replace("_", "").replace("-", "").replace(" ", "")
    close = difflib.get_close_matches(wanted, list(plain), n=1, cutoff=0.3)
    return f"The nearest is {plain[close[0]]!r}. " if close else ""
