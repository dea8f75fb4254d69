"""append_events: new events, users and items in a Dataset, as if it had been made of all of them at once."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from corral.data.dataset import Dataset
from corral.data.dataset_interactions import interactions_of
from corral.data.dataset_write import Progress
from corral.data.event_check import ID_COLUMNS, check_rows, require_columns
from corral.data.feature_rows import feature_frame, refuse_without_row, with_new_rows
from corral.data.id_check import check_ids_like
from corral.data.interactions import ColumnMap
from corral.data.only_holder import only_holder
from corral.data.skipped_rows import Problems
from corral.data.table_files import LoadedTable, load_table
from corral.data.time_check import refuse_unlike

# A served list has no value, and counts as much as any other.
_OF_A_LIST = {"value": pl.lit(0.0, pl.Float32).alias("value"), "weight": pl.lit(1.0, pl.Float32).alias("weight")}


class AlreadyThereError(ValueError):
    """All events that were to be appended are in the Dataset; where there were impressions alone, all of those."""


def append_events(
    path: str | Path,
    table: str | Path | Any,
    columns: ColumnMap | None = None,
    *,
    user_features: str | Path | Any | None = None,
    item_features: str | Path | Any | None = None,
    separator: str | None = None,
    encoding: str = "utf-8",
    progress: Progress | None = None,
) -> Dataset:
    """Adds a table of events to a Dataset, in its place; whoever has the old one open keeps it.

    The columns are those of a Dataset made of the old and the new events at once, byte for byte, wherever the new
    ones lie in time. Nothing old is parsed again: it is numbered and sorted with the new, written beside the old
    directory, and takes its place when it is whole.

    Args:
        path: the Dataset directory.
        table: new events: a path (CSV, TSV, Parquet, Arrow), or a polars, pandas or pyarrow table.
        columns: which column is which; of value, part and weight those that the Dataset has, and event_type where it
            knows the weights of types. Rows with label 0 become impressions.
        user_features: rows of users that the Dataset lacks; needed for each new one where it has user features.
        item_features: the same for items.
        separator: of text files; by default "," and a tab in .tsv files.
        encoding: of text files.
        progress: as in ``Dataset.write``.

    Returns:
        The new Dataset.

    Raises:
        AlreadyThereError: the Dataset holds all of the events, or of impressions that came without events.
        ValueError: naming file, line, column, value and what to do: the Dataset was made with filters or has no
            times; the table has other columns than it, ids or features of another type, or times of another unit; a
            feature row is there already, or that of a new user or item is missing; or another append is under way.
        FileNotFoundError: there is no such file or Dataset.
    """
    path, columns = Path(path), columns or ColumnMap()
    load = partial(load_table, separator=separator, encoding=encoding, may_skip=False)
    with only_writer(path):
        dataset = Dataset.open(path)
        refuse_unfit(dataset)
        loaded = load(table, list(columns.present().values()))
        new = _read(dataset, loaded, columns)
        labels = new["label"] if "label" in new.columns else pl.repeat(1, len(new), eager=True)
        clicked, shown = (new.filter(labels == label).drop("label", strict=False) for label in (1, 0))
        old = interactions_of(dataset)
        # Before features: of a table that was appended before, they are there too.
        if len(clicked):
            _refuse_repeated(path, old.events, clicked, "events")
        elif old.impressions is not None:
            _refuse_repeated(path, old.impressions, shown, "impressions")
        features: dict[str, pl.DataFrame | None] = {}
        for key, name, vocabulary, block, given in (
            ("user_id", columns.user, dataset.users, dataset.user_features, user_features),
            ("item_id", columns.item, dataset.items, dataset.item_features, item_features),
        ):
            frame = feature_frame(block, key, vocabulary)
            if frame is None and given is not None:
                raise ValueError(f"{path}: the data set has no {key[:4]} features to which new ones could be added")
            if frame is not None:
                if given is not None:
                    frame = with_new_rows(frame, block, key, vocabulary, load(given, None), name)
                refuse_without_row(frame, key, new[key], loaded, name)
            features[key] = frame
        impressions = old.impressions
        if len(shown):
            impressions = shown if impressions is None else impressions_below(impressions, shown)
        interactions = replace(
            old,
            events=_below(old.events, clicked),
            impressions=impressions,
            user_features=features["user_id"],
            item_features=features["item_id"],
            source=f"{old.source}, {Path(loaded.source).name}",
        )
        return Dataset.write(path, interactions, name=dataset.name, overwrite=True, progress=progress)


def refuse_unfit(dataset: Dataset) -> None:
    """Raises ValueError where a Dataset cannot grow: made with filters, or without times."""
    header = dataset.header
    if header.min_user_events > 1 or header.min_item_events > 1:
        raise ValueError(
            f"{dataset.path}: made with min_user_events={header.min_user_events}, min_item_events="
            f"{header.min_item_events}: events that were left out then may count now: build it again from all events"
        )
    if header.time_unit == "order":
        raise ValueError(f"{dataset.path}: has no times, only the order of its rows: build it again from all events")


def _read(dataset: Dataset, loaded: LoadedTable, columns: ColumnMap) -> pl.DataFrame:
    """The new events, checked, with the Dataset's columns and types of ids."""
    if columns.timestamp is None:
        raise ValueError(
            f"{dataset.path}: has times ({dataset.header.time_unit}): name the column of the new events' times"
        )
    weights = dataset.header.event_weights
    for column in ("value", "part", "event_type" if weights else "weight"):
        has = bool(weights) if column == "event_type" else getattr(dataset.events, column) is not None
        given, option = getattr(columns, column) is not None, column.replace("_", "-")
        if has != given:
            what = f"say which column of the new events holds it (--{option})" if has else f"leave --{option} out"
            raise ValueError(f"{dataset.path}: its events have {'a' if has else 'no'} {column}: {what}")
    names = columns.present()
    require_columns(loaded.frame.columns, list(names.values()), loaded.source)
    raw = loaded.frame.select(pl.col(name).alias(canonical) for canonical, name in names.items())
    unit = dataset.header.time_unit
    if raw.is_empty():
        raise ValueError(f"{loaded.source}: no events: the table has no rows")
    problems = Problems(loaded.source, loaded.line_of, names, may_skip=False)
    ids = [
        check_ids_like(raw[key], key, problems, vocabulary.id_type, loaded.is_text, may_be_new=True)
        for key, vocabulary in zip(ID_COLUMNS, (dataset.users, dataset.items), strict=True)
    ]
    raw = raw.with_columns(ids)
    events, _ = check_rows(raw, problems, False, event_weights=weights, time_unit=unit, fixed_unit=True)
    refuse_unlike(events["timestamp"], dataset.events.time, unit, problems)
    return events


def impressions_below(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """Old impressions, then new ones. Served lists have no values and weights, a table of labelled rows may."""
    for name, filled in _OF_A_LIST.items():
        if (name in old.columns) != (name in new.columns):
            old, new = (frame if name in frame.columns else frame.with_columns(filled) for frame in (old, new))
    return _below(old, new)


def _below(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """The order that decides between equal times."""
    return pl.concat([old, new.select(old.columns)])


def _refuse_repeated(path: Path, old: pl.DataFrame, new: pl.DataFrame, what: str) -> None:
    """Raises AlreadyThereError where every new row is there: a command given twice would double them."""
    same_times = old.filter(pl.col("timestamp").is_between(new["timestamp"].min(), new["timestamp"].max()))
    if new.join(same_times, on=[*ID_COLUMNS, "timestamp"], how="anti").is_empty():
        raise AlreadyThereError(f"{path}: holds all {len(new)} of the new {what} already: were they appended before?")


def only_writer(path: Path) -> AbstractContextManager[None]:
    """Two appends at a time would each keep only their own events: the second one is refused."""
    return only_holder(path, f"{path}: another append is under way: try again when it is done")
