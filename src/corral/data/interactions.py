"""Interactions: events from outside, checked, columnar, not yet numbered; and the reader of plain tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import polars as pl

from corral.data.event_check import check_events, check_features, require_columns
from corral.data.feature_fit import keyed_like, unrelated
from corral.data.id_check import plain_integers
from corral.data.skipped_rows import LineOf, SkippedRow, SkippedRows
from corral.data.table_files import load_table
from corral.data.time_units import require_unit

__all__ = [
    "ColumnMap",
    "Interactions",
    "SkippedRow",
    "SkippedRows",
    "check_events",
    "check_features",
    "read_table",
]

# Digits that are no quantity: a leading zero, or more of them than a float holds.
_CODE = r"^-?(0\d+|\d{16,})$"
_MISSING = ("na", "n/a", "nan", "null", "none")


@dataclass(frozen=True)
class ColumnMap:
    """Which column of a table is which.

    Attributes:
        user: user ids.
        item: item ids.
        timestamp: times; None if the table has none: the row order is then the time.
        value: rating, quantity, watch time, ...
        label: 1 clicked, 0 shown and not clicked: rows with 0 become impressions.
        part: given split: train, valid, test (or 0, 1, 2).
        weight: what an example counts in training losses, >= 0.
        event_type: view, cart, purchase, ...; each type's weight is given where the table is read.
    """

    user: str = "user_id"
    item: str = "item_id"
    timestamp: str | None = "timestamp"
    value: str | None = None
    label: str | None = None
    part: str | None = None
    weight: str | None = None
    event_type: str | None = None

    @classmethod
    def of(cls, columns: ColumnMap | Mapping[str, str | None] | None) -> ColumnMap:
        """The map itself, one of a mapping such as ``{"user": "who"}``, or the default names.

        Raises:
            ValueError: the mapping names what is no attribute.
        """
        if not isinstance(columns, Mapping):
            return columns or cls()
        unknown = sorted(set(columns) - {one.name for one in fields(cls)})
        if unknown:
            raise ValueError(f"columns: unknown {unknown}; what can be named is {[one.name for one in fields(cls)]}")
        return cls(**columns)  # type: ignore[arg-type]

    def present(self) -> dict[str, str]:
        """Canonical name -> name in the table, for the columns that are mapped."""
        names = {
            "user_id": self.user,
            "item_id": self.item,
            "timestamp": self.timestamp,
            "value": self.value,
            "label": self.label,
            "part": self.part,
            "weight": self.weight,
            "event_type": self.event_type,
        }
        return {canonical: name for canonical, name in names.items() if name is not None}


@dataclass(frozen=True)
class Interactions:
    """Checked events with what is known of users and items; ids are still the source's own.

    Make it with ``Interactions.of`` (which checks), or directly from frames that ``check_events`` returned.

    Attributes:
        events: user_id (Int64 or String), item_id (Int64 or String), timestamp (Int64, >= 0), optional value
            (Float32), part (Int8: 0 train, 1 valid, 2 test) and weight (Float32, >= 0), in the source's row order.
        impressions: the same columns: shown, not clicked.
        user_features: user_id (unique), then features: lists become multi-valued, strings, ints and bools
            categorical, floats numeric.
        item_features: item_id (unique), then features.
        text_columns: feature columns for display only, such as a title.
        time_unit: one of ``TIME_UNITS``; "order" where the source has no times.
        source: where it came from.
        licence: under which terms.
        skipped: bad rows that were dropped.
        event_weights: the weight of each event type, that of its rows; {}: weights came as a column; None: no weights.
        unfit_features: rows of the user and of the item features that were left out, as their ids are of another type.
    """

    events: pl.DataFrame
    impressions: pl.DataFrame | None = None
    user_features: pl.DataFrame | None = None
    item_features: pl.DataFrame | None = None
    text_columns: frozenset[str] = frozenset()
    time_unit: str = "seconds"
    source: str = ""
    licence: str = ""
    skipped: SkippedRows = field(default_factory=SkippedRows)
    event_weights: Mapping[str, float] | None = None
    unfit_features: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        require_unit(self.time_unit)
        _require_checked(self.events, "events")
        if self.events.is_empty():
            raise ValueError(f"{self.source or 'events'}: no events")
        if self.impressions is not None:
            _require_checked(self.impressions, "impressions")
        for key, features in (("user_id", self.user_features), ("item_id", self.item_features)):
            if features is not None:
                require_columns(features.columns, [key], f"{self.source} ({key[:4]} features)")
                if features[key].is_duplicated().any() or features[key].null_count():
                    raise ValueError(f"{self.source}: {key} of the {key[:4]} features must be unique and without nulls")
                if features[key].dtype != self.events[key].dtype:
                    raise ValueError(
                        f"{self.source}: {key} is {features[key].dtype} in the features and "
                        f"{self.events[key].dtype} in the events: give both the same type"
                    )

    def __len__(self) -> int:
        return len(self.events)

    @classmethod
    def of(
        cls,
        events: pl.DataFrame,
        *,
        impressions: pl.DataFrame | None = None,
        user_features: pl.DataFrame | None = None,
        item_features: pl.DataFrame | None = None,
        text_columns: Iterable[str] = (),
        time_unit: str = "seconds",
        source: str,
        licence: str = "",
        line_offset: LineOf = None,
        skip_bad_rows: bool = False,
        skipped: SkippedRows | None = None,
        event_weights: Mapping[str, float] | None = None,
    ) -> Interactions:
        """Checks every table and brings their ids to the same type.

        Args:
            events: see ``check_events``; already checked frames pass through unchanged. Rows with label 0
                become impressions.
            impressions: see ``check_events``.
            user_features: see ``check_features``.
            item_features: see ``check_features``.
            text_columns: feature columns for display only.
            time_unit: of the timestamps (dates are brought to it); "order" is set by itself where there is no
                timestamp column.
            source: named in messages and kept.
            licence: kept.
            line_offset: of ``events``, see ``check_events``.
            skip_bad_rows: drop, count and list bad rows instead of raising.
            skipped: rows the caller has dropped already.
            event_weights: of each event type, where ``events`` has a column event_type; see ``check_events``.

        Raises:
            ValueError: naming source, line or row, column, value and what to do; also where no row of a feature table
                is of a user (item) of the events.
        """
        total, text_columns = skipped or SkippedRows(), tuple(text_columns)
        known = [name for side in (user_features, item_features) if side is not None for name in side.columns]
        for name in text_columns:
            if name not in known:
                there = f"their columns are {known}" if known else "none is given"
                raise ValueError(f"text column {name!r}: no table of features has it; {there}")
        if "timestamp" not in events.columns:
            time_unit = "order"
        events, dropped = check_events(
            events,
            source=source,
            line_offset=line_offset,
            skip_bad_rows=skip_bad_rows,
            event_weights=event_weights,
            time_unit=time_unit,
        )
        if "weight" in events.columns and event_weights is None:
            event_weights = {}
        total += dropped
        if impressions is not None and not impressions.is_empty():
            impressions, dropped = check_events(
                impressions,
                source=f"{source} (impressions)",
                skip_bad_rows=skip_bad_rows,
                event_weights=event_weights,
                time_unit=time_unit,
            )
            total += dropped
        else:
            impressions = None
        if "label" in events.columns:
            clicked = events["label"] == 1
            shown = events.filter(~clicked).drop("label")
            events = events.filter(clicked).drop("label")
            if events.is_empty():
                raise ValueError(f"{source}: the label is 0 in every row: there are no clicks")
            if not shown.is_empty():
                impressions = shown if impressions is None else pl.concat([impressions, shown], how="vertical_relaxed")
        features: dict[str, pl.DataFrame | None] = {"user_id": user_features, "item_id": item_features}
        unfit = dict.fromkeys(features, 0)
        for key, frame in features.items():
            if frame is not None:
                frame, dropped = check_features(
                    frame, key, source=f"{source} ({key[:4]} features)", skip_bad_rows=skip_bad_rows
                )
                total += dropped
            if impressions is not None and impressions[key].dtype != events[key].dtype:
                events = events.with_columns(pl.col(key).cast(pl.String))
                impressions = impressions.with_columns(pl.col(key).cast(pl.String))
            if frame is not None:
                ids = [log[key] for log in (events, impressions) if log is not None]
                fitting = keyed_like(frame, key, ids[0].dtype)
                if len(frame) and not any(one.is_in(fitting[key].implode()).any() for one in ids):
                    raise unrelated(source, key, len(frame), frame[key][0], ids[0][0])
                unfit[key] = len(frame) - len(fitting)
                frame = fitting
            features[key] = frame
        return cls(
            events,
            impressions,
            features["user_id"],
            features["item_id"],
            frozenset(text_columns),
            time_unit,
            source,
            licence,
            total,
            event_weights,
            (unfit["user_id"], unfit["item_id"]),
        )


def read_table(
    table: str | Path | pl.DataFrame | Any,
    columns: ColumnMap | Mapping[str, str | None] | None = None,
    *,
    user_features: str | Path | pl.DataFrame | Any | None = None,
    item_features: str | Path | pl.DataFrame | Any | None = None,
    text_columns: Iterable[str] = (),
    time_unit: str = "seconds",
    source: str | None = None,
    licence: str = "",
    separator: str | None = None,
    encoding: str = "utf-8",
    skip_bad_rows: bool = False,
    event_weights: Mapping[str, float] | None = None,
) -> Interactions:
    """Reads one table of events.

    Args:
        table: path of a CSV, TSV (also .gz), Parquet or Arrow (IPC, Feather) file; or a polars, pandas or
            pyarrow table.
        columns: which column is which; by default user_id, item_id, timestamp.
        user_features: a table with the user column first named as in ``columns`` (or user_id), then features.
        item_features: the same for items.
        text_columns: feature columns for display only.
        time_unit: of the timestamps (dates are brought to it).
        source: name kept in the data set; by default the file's name.
        licence: kept in the data set.
        separator: of a text file; by default "," and a tab in .tsv files.
        encoding: of a text file.
        skip_bad_rows: drop bad rows, count them and list the first, instead of raising.
        event_weights: the weight of each event type, for ``columns.event_type``.

    Raises:
        ValueError: naming file, line or row, column, value and what to do.
        FileNotFoundError: there is no such file.
    """
    columns = ColumnMap.of(columns)
    names, text_columns = columns.present(), tuple(text_columns)
    if event_weights is not None and columns.event_type is None:
        raise ValueError("event_weights: say which column holds the types of events, ColumnMap(event_type=...)")
    loaded = load_table(
        table, list(names.values()), separator=separator, encoding=encoding, skip_bad_rows=skip_bad_rows
    )
    require_columns(loaded.frame.columns, list(names.values()), loaded.source)
    frame = loaded.frame.select(pl.col(name).alias(canonical) for canonical, name in names.items())
    events, skipped = check_events(
        frame,
        source=loaded.source,
        line_offset=loaded.line_of,
        skip_bad_rows=skip_bad_rows,
        text=loaded.is_text,
        names=names,
        event_weights=event_weights,
        time_unit=time_unit,
    )
    skipped = loaded.skipped + skipped
    features: list[pl.DataFrame | None] = []
    for key, name, other in (
        ("user_id", columns.user, user_features),
        ("item_id", columns.item, item_features),
    ):
        if other is None:
            features.append(None)
            continue
        side_frame, dropped = read_features(
            other,
            key,
            name,
            text_columns=text_columns,
            separator=separator,
            encoding=encoding,
            skip_bad_rows=skip_bad_rows,
        )
        skipped = skipped + dropped
        features.append(side_frame)
    return Interactions.of(
        events,
        user_features=features[0],
        item_features=features[1],
        text_columns=text_columns,
        time_unit=time_unit if columns.timestamp is not None else "order",
        source=source or loaded.source,
        licence=licence,
        skipped=skipped,
        event_weights=event_weights,
    )


def read_features(
    table: str | Path | pl.DataFrame | Any,
    key: str,
    name: str,
    *,
    text_columns: Iterable[str] = (),
    separator: str | None = None,
    encoding: str = "utf-8",
    skip_bad_rows: bool = False,
) -> tuple[pl.DataFrame, SkippedRows]:
    """Reads and checks a table of features.

    Args:
        table: as in ``read_table``.
        key: user_id or item_id.
        name: the key's column in the table; ``key`` is taken, too.
        text_columns: feature columns for display only.
        separator: of a text file.
        encoding: of a text file.
        skip_bad_rows: drop bad rows instead of raising.

    Returns:
        The features, the key's column named ``key``; and what was skipped.
    """
    side = load_table(table, None, separator=separator, encoding=encoding, skip_bad_rows=skip_bad_rows)
    frame = side.frame.rename({name: key}) if name in side.frame.columns else side.frame
    frame, dropped = check_features(
        frame, key, source=side.source, line_offset=side.line_of, skip_bad_rows=skip_bad_rows, text=side.is_text
    )
    if side.is_text:
        frame = _type_text_features(frame, key, frozenset(text_columns))
    return frame, side.skipped + dropped


def _type_text_features(frame: pl.DataFrame, key: str, text_columns: frozenset[str]) -> pl.DataFrame:
    """Feature columns of a text file: ints where all are plain ints, floats where all are numbers, else strings.

    A column with codes (02134, a barcode of 20 digits) is text: as numbers, 02134 would be 2134 and barcodes rounded.
    Among numbers NA, N/A, NaN, null and None stand for a missing value; elsewhere they are text (NA: Namibia).
    """
    typed = []
    for column in frame.iter_columns():
        if column.name != key and column.name not in text_columns and column.dtype == pl.String:
            numbers = column.set(column.str.to_lowercase().is_in(_MISSING), None)
            dtype = pl.Int64 if plain_integers(numbers).all() else pl.Float64
            if bool(numbers.count()) == bool(column.count()) and (
                dtype == pl.Int64 or not numbers.str.contains(_CODE).any()
            ):
                cast = numbers.cast(dtype, strict=False)
                column = cast if cast.null_count() == numbers.null_count() else column
        typed.append(column)
    return pl.DataFrame(typed)


def _require_checked(events: pl.DataFrame, what: str) -> None:
    """Refuses frames that did not pass ``check_events``; costs next to nothing."""
    require_columns(events.columns, ("user_id", "item_id", "timestamp"), what)
    types = {"timestamp": (pl.Int64,), "value": (pl.Float32,), "part": (pl.Int8,), "weight": (pl.Float32,)}
    for column in events.iter_columns():
        allowed = types.get(column.name, (pl.Int64, pl.String))
        if column.dtype not in allowed or column.null_count():
            raise ValueError(
                f"{what}: column {column.name!r} is {column.dtype} with {column.null_count()} nulls, "
                f"expected {' or '.join(map(str, allowed))} without: pass the frame through Interactions.of"
            )
