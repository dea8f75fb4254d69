"""Your own tables: CSV, TSV, Parquet, Arrow files; pandas, polars and pyarrow tables; with a map of columns.

Thin on purpose: ``data.interactions.read_table`` does the reading and checking.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from corral.data.interactions import ColumnMap, Interactions, read_features, read_table

DEFAULT_COLUMNS = ColumnMap()


def read(
    table: str | Path | Any,
    *,
    columns: ColumnMap | Mapping[str, str | None] = DEFAULT_COLUMNS,
    user_features: str | Path | Any | None = None,
    item_features: str | Path | Any | None = None,
    impressions: str | Path | Any | None = None,
    text_columns: Iterable[str] = (),
    time_unit: str = "seconds",
    licence: str = "",
    separator: str | None = None,
    encoding: str = "utf-8",
    skip_bad_rows: bool = False,
    event_weights: Mapping[str, float] | None = None,
) -> Interactions:
    """Reads a table of events and, if given, tables of features and of impressions.

    Args:
        table: a path, or a pandas, polars or pyarrow table.
        columns: which column is which.
        user_features: a table with the user column, then features.
        item_features: a table with the item column, then features.
        impressions: a table of what was shown and not clicked, with the same column names as the events.
        text_columns: feature columns for display only.
        time_unit: of the timestamps (dates are brought to it).
        licence: kept with the data.
        separator: of text files; by default "," and a tab in .tsv files.
        encoding: of text files.
        skip_bad_rows: drop, count and list bad rows instead of raising.
        event_weights: the weight of each event type, for ``columns.event_type``.

    Raises:
        ValueError: naming file, line or row, column, value and what to do; also where impressions are given
            twice, by label and by table, or no row of a feature table is of a user (item) of the events.
        FileNotFoundError: there is no such file.
    """
    columns, text_columns = ColumnMap.of(columns), tuple(text_columns)
    form: dict[str, Any] = {"separator": separator, "encoding": encoding, "skip_bad_rows": skip_bad_rows}
    features: dict[str, Any] = {"user_features": user_features, "item_features": item_features}
    events = read_table(
        table,
        columns,
        # Beside impressions they wait: features may be of what was only ever shown.
        **(features if impressions is None else {}),
        text_columns=text_columns if impressions is None else (),
        time_unit=time_unit,
        licence=licence,
        event_weights=event_weights,
        **form,
    )
    if isinstance(table, str | Path):
        events = replace(events, source=Path(table).name)
    if impressions is None:
        return events
    if events.impressions is not None:
        raise ValueError("impressions are given twice: by a label column and by a table of their own; choose one")
    shown = read_table(
        impressions,
        replace(columns, value=None, label=None, weight=None, event_type=None),
        time_unit=time_unit,
        **form,
    )
    skipped = events.skipped + shown.skipped
    for name, key, column in (("user_features", "user_id", columns.user), ("item_features", "item_id", columns.item)):
        if features[name] is not None:
            features[name], dropped = read_features(features[name], key, column, text_columns=text_columns, **form)
            skipped += dropped
    return Interactions.of(
        events.events,
        impressions=shown.events,
        **features,
        text_columns=text_columns,
        time_unit=events.time_unit,
        source=events.source,
        licence=licence,
        skip_bad_rows=skip_bad_rows,
        skipped=skipped,
        event_weights=event_weights,
    )
