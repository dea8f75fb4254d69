"""FuxiCTR/BARS CSV splits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from corral.data.interactions import ColumnMap
from corral.data.readers import bars

Write = Callable[..., Path]

HEADER = "label,user_id,item_id,city,genre,tab\n"


def small(write: Write, train: str = "1,1,10,Rome,a^b,x\n0,1,20,Rome,c,y\n") -> Path:
    write("train.csv", HEADER + train)
    write("valid.csv", HEADER + "1,2,20,Oslo,c,x\n")
    return write("test.csv.gz", HEADER + "1,2,10,Oslo,a^b,y\n0,3,10,,a^b,x\n")


def test_clicks_impressions_parts_and_features(write: Write) -> None:
    read = bars.read(small(write))
    assert read.events.select("user_id", "item_id", "part").rows() == [(1, 10, 0), (2, 20, 1), (2, 10, 2)]
    assert read.impressions is not None
    assert read.impressions.select("user_id", "item_id", "part").rows() == [(1, 20, 0), (3, 10, 2)]
    assert read.user_features is not None
    assert read.user_features.rows() == [(1, "Rome"), (2, "Oslo"), (3, None)]
    assert read.item_features is not None
    assert read.item_features.rows() == [(10, ["a", "b"]), (20, ["c"])]
    assert "tab" in read.source
    assert read.time_unit == "order"


def test_named_feature_columns_are_checked(write: Write) -> None:
    read = bars.read(small(write), user_columns=["city"], item_columns=[])
    assert read.item_features is None
    with pytest.raises(ValueError, match="column 'tab' has two values for user_id 1"):
        bars.read(small(write), user_columns=["tab"])
    with pytest.raises(ValueError, match="no feature column 'town'; there are city, genre, tab"):
        bars.read(small(write), user_columns=["town"])


def test_errors(write: Write) -> None:
    folder = small(write, "1,1,10,Rome,a,x\n2,1,20,Rome,c,y\n")
    with pytest.raises(ValueError, match=r"train.csv, line 3, column 'label': 2.0: not 0 or 1"):
        bars.read(folder)
    assert bars.read(folder, skip_bad_rows=True).skipped.count == 1
    with pytest.raises(ValueError, match=r"no column 'msno'; the header has label, user_id"):
        bars.read(folder, columns=ColumnMap(user="msno", timestamp=None, label="label"))
    small(write)
    write("valid.csv", "user_id,label,item_id,city,genre,tab\n1,1,1,1,1,1\n")
    with pytest.raises(ValueError, match=r"valid.csv, line 1: the header is not that of train.csv"):
        bars.read(folder)
    (folder / "valid.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected valid.csv"):
        bars.read(folder)


def test_times_in_a_unit(write: Write) -> None:
    for name in ("train", "valid", "test"):
        folder = write(f"{name}.csv", "label,user_id,item_id,at\n1,1,10,1700000000000\n")
    columns = ColumnMap(timestamp="at", label="label")
    with pytest.raises(ValueError, match="column 'at': 1700000000000 seconds is the year 55,840"):
        bars.read(folder, columns=columns)
    assert bars.read(folder, columns=columns, time_unit="milliseconds").time_unit == "milliseconds"
