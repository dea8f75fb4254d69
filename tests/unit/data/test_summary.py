"""What a data set holds, in numbers, on a set small enough to count by hand."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.data.summary import summarize, time_text


def test_summary(tmp_path: Path) -> None:
    events = pl.DataFrame(
        {
            "user_id": ["a"] * 4 + ["b"] * 5 + ["c"],
            "item_id": [1, 2, 1, 3, 1, 1, 2, 2, 3, 9],
            "timestamp": [0, 0, 1, 2, 0, 1, 2, 2, 3, 86400],
            "value": [1.0] * 9 + [5.0],
        }
    )
    items = pl.DataFrame(
        {
            "item_id": [1, 2, 9],
            "size": [1.0, None, 2.0],
            "tags": [["x", "y"], [], ["x"]],
            "title": ["A", "", "B"],
        }
    )
    interactions = Interactions.of(events, item_features=items, text_columns=["title"], source="hand")
    summary = summarize(Dataset.write(tmp_path / "d", interactions, name="d"))
    assert summary["tied_share"] == 0.2
    assert summary["repeated_share"] == 0.3
    assert summary["events_per_user"]["100%"] == 5.0
    assert summary["events_per_item"]["50%"] == 2.5
    assert summary["value"] == {"min": 1.0, "median": 1.0, "mean": 1.4, "max": 5.0}
    assert summary["cold"] == {"from": 86400, "events": 1, "user_share": 1.0, "item_share": 1.0}
    assert summary["time"]["last_date"] == "1970-01-02 00:00:00"
    assert summary["item_features"] == [
        {"name": "size", "kind": "numeric", "values": None, "coverage": 0.5},
        {"name": "tags", "kind": "multi", "values": 2, "coverage": 0.5},
        {"name": "title", "kind": "text", "values": None, "coverage": 0.5},
    ]


def test_order_has_no_dates_and_no_cold_shares(tmp_path: Path) -> None:
    events = pl.DataFrame({"user_id": [1, 1], "item_id": [1, 2]})
    summary = summarize(Dataset.write(tmp_path / "d", Interactions.of(events, source="hand"), name="d"))
    assert summary["cold"] is None
    assert summary["time"]["first_date"] is None


def test_time_text() -> None:
    assert time_text(15954, "days") == "2013-09-06"
    assert time_text(10**18, "seconds") == str(10**18)
    assert time_text(7, "order") == "7"
