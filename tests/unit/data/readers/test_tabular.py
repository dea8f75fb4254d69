"""Your own tables."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from corral.data.interactions import ColumnMap
from corral.data.readers import tabular


def test_files_with_a_column_map(tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_text("who,what,when,stars\na,1,5,2.5\nb,2,6,3\n")
    (tmp_path / "shown.csv").write_text("who,what,when\na,2,5\n")
    items = pl.DataFrame({"what": [1, 2], "title": ["One", "Two"], "size": [1.5, None]})
    items.write_parquet(tmp_path / "i.parquet")
    read = tabular.read(
        tmp_path / "clicks.csv",
        columns=ColumnMap(user="who", item="what", timestamp="when", value="stars"),
        item_features=tmp_path / "i.parquet",
        impressions=tmp_path / "shown.csv",
        text_columns=["title"],
        time_unit="days",
        licence="mine",
    )
    assert read.events.rows() == [("a", 1, 5, 2.5), ("b", 2, 6, 3.0)]
    assert read.impressions is not None
    assert read.impressions.rows() == [("a", 2, 5)]
    assert read.item_features is not None
    assert read.item_features.rows() == [(1, "One", 1.5), (2, "Two", None)]
    assert (read.source, read.time_unit, read.licence) == ("clicks.csv", "days", "mine")


def test_features_of_what_was_only_shown() -> None:
    events = pl.DataFrame({"user_id": [1], "item_id": [1], "timestamp": [5]})
    shown = pl.DataFrame({"user_id": [1], "item_id": ["SKU2"], "timestamp": [5]})
    items = pl.DataFrame({"item_id": ["SKU2", "SKU3"], "size": [1.5, 2.0]})
    read = tabular.read(events, impressions=shown, item_features=items)
    assert read.item_features is not None
    assert read.item_features.equals(items)
    with pytest.raises(ValueError, match="none of the 2 rows is of an item"):
        tabular.read(events, item_features=items)


def test_impressions_twice(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "timestamp": [1, 1], "label": [1, 0]})
    read = tabular.read(frame, columns=ColumnMap(label="label"))
    assert read.impressions is not None
    with pytest.raises(ValueError, match="given twice"):
        tabular.read(frame, columns=ColumnMap(label="label"), impressions=frame)
