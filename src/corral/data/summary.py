"""What a data set holds, in numbers: for ``corral data describe`` and for reports."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow.compute as pc

from corral.data.dataset import Dataset, EventLog
from corral.data.features import FeatureColumn, FeatureKind, FeatureTable
from corral.data.time_units import SECONDS
from corral.data.vocabulary import FIRST_ROW

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
LAST_SHARE = 0.1
"""Cold shares are those of the last tenth of the events, as with the default split by time."""


def summarize(dataset: Dataset) -> dict[str, object]:
    """Counts, times, ties, quantiles, features with coverage, cold shares; JSON types only.

    Raises:
        ValueError: the data set holds rows it has no users or items for.
    """
    header, events = dataset.header, dataset.events
    for rows, n_rows in ((events.user, dataset.n_users), (events.item, dataset.n_items)):
        if rows.min() < FIRST_ROW or rows.max() >= n_rows:
            raise ValueError(f"{dataset.path}: damaged: row {rows.max()} of {n_rows}: build it again")
    return {
        "name": header.name,
        "hash": dataset.hash,
        "source": header.source,
        "licence": header.licence,
        "event_weights": header.event_weights,
        "counts": header.counts.model_dump(),
        "filters": {
            "min_user_events": header.min_user_events,
            "min_item_events": header.min_item_events,
            "k_core": header.iterate,
        },
        "time": _times(events, header.time_unit),
        "tied_share": _share(header.counts.tied_events, len(events)),
        "repeated_share": _share(_repeats(events, dataset.n_items), len(events)),
        "events_per_user": _quantiles(np.diff(events.offsets)[FIRST_ROW:]),
        "events_per_item": _quantiles(np.bincount(events.item, minlength=dataset.n_items)[FIRST_ROW:]),
        "value": None if events.value is None else _values(events.value),
        "given_split": None if events.part is None else _parts(events.part),
        "impressions": None if dataset.impressions is None else len(dataset.impressions),
        "cold": None if header.time_unit == "order" else _cold(events, dataset.n_users, dataset.n_items),
        "user_features": _features(dataset.user_features),
        "item_features": _features(dataset.item_features),
        "skipped_examples": list(header.skipped_examples),
    }


def time_text(time: int, unit: str) -> str:
    """A time as a date, where it can be one (times may count from any start)."""
    seconds = SECONDS.get(unit)
    if seconds is None:
        return str(time)
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=time * seconds)
    except OverflowError:
        return str(time)
    return moment.strftime("%Y-%m-%d" if unit == "days" else "%Y-%m-%d %H:%M:%S")


def _times(events: EventLog, unit: str) -> dict[str, object]:
    first, last = int(events.time.min()), int(events.time.max())
    return {
        "unit": unit,
        "first": first,
        "last": last,
        "first_date": None if unit == "order" else time_text(first, unit),
        "last_date": None if unit == "order" else time_text(last, unit),
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _repeats(events: EventLog, n_items: int) -> int:
    """Events whose (user, item) pair was there before."""
    pairs = events.user.astype(np.int64) * n_items + events.item
    return len(pairs) - len(np.unique(pairs))


def _quantiles(counts: np.ndarray) -> dict[str, float]:
    if not len(counts):
        return {}
    values = np.quantile(counts, QUANTILES)
    named = {f"{quantile:.0%}": float(value) for quantile, value in zip(QUANTILES, values, strict=True)}
    return {"mean": float(counts.mean()), **named}


def _values(values: np.ndarray) -> dict[str, float]:
    return {
        "min": float(values.min()),
        "median": float(np.median(values)),
        "mean": float(values.mean(dtype=np.float64)),
        "max": float(values.max()),
    }


def _parts(part: np.ndarray) -> dict[str, int]:
    counts = np.bincount(part, minlength=3)
    return {name: int(count) for name, count in zip(("train", "valid", "test"), counts, strict=True)}


def _cold(events: EventLog, n_users: int, n_items: int) -> dict[str, object]:
    """Of the events from the cut on: the share whose user, and whose item, has no event before it."""
    place = min(int(len(events) * (1 - LAST_SHARE)), len(events) - 1)
    cut = int(np.partition(events.time, place)[place])
    late = events.time >= cut
    cold: dict[str, object] = {"from": cut, "events": int(late.sum())}
    for name, rows, n_rows in (("user_share", events.user, n_users), ("item_share", events.item, n_items)):
        seen = np.zeros(n_rows, dtype=bool)
        seen[rows[~late]] = True
        cold[name] = float((~seen[rows[late]]).mean())
    return cold


def _features(table: FeatureTable) -> list[dict[str, object]]:
    real = max(table.rows - FIRST_ROW, 1)
    return [
        {
            "name": column.name,
            "kind": str(column.kind),
            "values": None if column.vocabulary is None else len(column.vocabulary) - FIRST_ROW,
            "coverage": _present(column) / real,
        }
        for column in table.columns.values()
    ]


def _present(column: FeatureColumn) -> int:
    """Rows that have a value."""
    if column.kind is FeatureKind.NUMERIC:
        return int(np.count_nonzero(~np.isnan(column.values)))
    if column.kind is FeatureKind.MULTI:
        assert column.offsets is not None
        return int(np.count_nonzero(np.diff(column.offsets)))
    if column.kind is FeatureKind.TEXT:
        return int(pc.sum(pc.not_equal(column.texts, "")).as_py() or 0)
    return int(np.count_nonzero(column.values))
