"""Whose the rows of a feature table are: in the type of the events' ids; refused where nobody's; and counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import polars as pl

from corral.data.dataset_header import Counts
from corral.data.id_check import whole_numbers


class FeatureTables(Protocol):
    """Feature tables before they are numbered; see ``Interactions``."""

    @property
    def user_features(self) -> pl.DataFrame | None: ...
    @property
    def item_features(self) -> pl.DataFrame | None: ...
    @property
    def unfit_features(self) -> tuple[int, int]: ...


@dataclass(frozen=True)
class FeatureGap:
    """What a feature table and the ids of the data do not have in common.

    Attributes:
        side: "user" or "item".
        ids: how many users (items) there are.
        missing: of them, those without a row in the table.
        unused: rows of the table that are of no user (item).
    """

    side: str
    ids: int
    missing: int
    unused: int

    def __str__(self) -> str:
        told = f"{self.missing:,} of {self.ids:,} {self.side}s have no row"
        return f"{self.side} features: {told}, {self.unused:,} rows are of no {self.side} of the data"


def keyed_like(frame: pl.DataFrame, key: str, dtype: pl.DataType) -> pl.DataFrame:
    """A feature table with ids of the events' type; rows whose key is no integer cannot belong to an integer id."""
    if frame[key].dtype == dtype:
        return frame
    # Not every text of digits is one: 007 is not user 7.
    text = frame[key].dtype == pl.String
    ids = whole_numbers(frame[key]) if text and dtype == pl.Int64 else frame[key].cast(dtype, strict=False)
    return frame.with_columns(ids).drop_nulls(key)


def unrelated(source: str, key: str, rows: int, theirs: object, ours: object) -> ValueError:
    """The error of a table none of whose rows is of an id of the events.

    Args:
        source: of the events.
        key: user_id or item_id.
        rows: of the table.
        theirs: one of its ids.
        ours: one of the events' ids.
    """
    side = key[:4]
    return ValueError(
        f"{source} ({side} features): none of the {rows:,} rows is of {_A[side]} of the events: {key} is {theirs!r} in "
        f"the table of features and {ours!r} in the events: write the ids alike in both, or leave the table out"
    )


def feature_gaps(tables: FeatureTables, counts: Counts) -> list[FeatureGap]:
    """What each feature table and the ids of a Dataset made of it do not have in common."""
    gaps = []
    for side, frame, ids, unused, unfit in (
        ("user", tables.user_features, counts.users, counts.unused_user_features, tables.unfit_features[0]),
        ("item", tables.item_features, counts.items, counts.unused_item_features, tables.unfit_features[1]),
    ):
        if frame is not None:
            gaps.append(FeatureGap(side, ids, ids - (len(frame) + unfit - unused), unused))
    return gaps


_A = {"user": "a user", "item": "an item"}
