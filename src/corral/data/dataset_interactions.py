"""interactions_of: a Dataset's contents with external ids again, for another Dataset to be made of."""

from __future__ import annotations

from typing import Any

import polars as pl

from corral.data.dataset import Dataset, EventLog
from corral.data.event_check import ID_COLUMNS
from corral.data.feature_rows import feature_frame
from corral.data.features import FeatureKind
from corral.data.interactions import Interactions


def interactions_of(dataset: Dataset) -> Interactions:
    """What ``Dataset.write`` makes the same columns of, byte for byte (the filters apart)."""
    tables = (dataset.user_features, dataset.item_features)
    texts = (c.name for table in tables for c in table.columns.values() if c.kind is FeatureKind.TEXT)
    return Interactions(
        events_frame(dataset, dataset.events),
        None if dataset.impressions is None else events_frame(dataset, dataset.impressions),
        feature_frame(dataset.user_features, "user_id", dataset.users),
        feature_frame(dataset.item_features, "item_id", dataset.items),
        frozenset(texts),
        dataset.header.time_unit,
        dataset.header.source,
        dataset.header.licence,
        event_weights=dataset.header.event_weights,
    )


def events_frame(dataset: Dataset, log: EventLog) -> pl.DataFrame:
    """A log with external ids, in its own order: within a user and a time that of the source."""
    columns: dict[str, Any] = {
        key: pl.from_arrow(vocabulary.taken(rows))
        for key, vocabulary, rows in zip(ID_COLUMNS, (dataset.users, dataset.items), (log.user, log.item), strict=True)
    }
    columns["timestamp"] = log.time
    optional = {"value": log.value, "part": log.part, "weight": log.weight}
    columns |= {name: values for name, values in optional.items() if values is not None}
    return pl.DataFrame(columns)
