"""Splits for others: every event in its part, with its own ids, and atomic files that are read back the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.data.readers import atomic
from corral.data.split import Part, given, leave_last_two_out, time_cut
from corral.data.split_export import export_split

ITEMS = pl.DataFrame(
    {
        "item_id": [f"sku {n}" for n in range(12)],
        "shelf": [f"row\t{n % 3}" if n else None for n in range(12)],
        "words": [["green tea", "hot"] if n % 2 else [] for n in range(12)],
        "price": [n / 2 if n else None for n in range(12)],
        "title": [f"Article, \"no. {n}\"" for n in range(12)],
    }
)  # fmt: skip


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    random = np.random.default_rng(0)
    events = pl.DataFrame(
        {
            "user_id": random.integers(0, 9, 200) * 7,
            "item_id": [f"sku {n}" for n in random.integers(0, 12, 200)],
            "timestamp": random.integers(10**9, 10**9 + 50, 200),
            "value": random.integers(1, 6, 200).astype(np.float32),
        }
    )
    shown = events.head(5).drop("value")
    interactions = Interactions.of(
        events, impressions=shown, item_features=ITEMS, text_columns=["title"], source="made up"
    )
    return Dataset.write(tmp_path / "shop", interactions)


def parts(dataset: Dataset, split_part: np.ndarray) -> dict[str, list[tuple[object, ...]]]:
    """Events by part, external ids."""
    log, found = dataset.events, {}
    users, items = dataset.users.external(log.user), dataset.items.external(log.item)
    assert log.value is not None
    for part in Part:
        rows = np.flatnonzero(split_part == part)
        found[part.name.lower()] = sorted(
            (users[row], items[row], int(log.time[row]), float(log.value[row])) for row in rows
        )
    return found


def test_parquet(dataset: Dataset, tmp_path: Path) -> None:
    split = time_cut(dataset)
    export_split(tmp_path / "out", dataset, split, more={"results": pl.DataFrame({"x": [1]})})
    wanted = parts(dataset, split.part)
    for name in ("train", "valid", "test"):
        frame = pl.read_parquet(tmp_path / "out" / f"{name}.parquet")
        assert frame.columns == ["user_id", "item_id", "timestamp", "value"]
        assert sorted(frame.rows()) == wanted[name]
    items = pl.read_parquet(tmp_path / "out" / "items.parquet")
    assert items["title"].to_list() == [
        title for _, title in sorted(zip(ITEMS["item_id"], ITEMS["title"], strict=True))
    ]
    assert items.filter(pl.col("item_id") == "sku 3")["words"].to_list() == [["green tea", "hot"]]
    assert pl.read_parquet(tmp_path / "out" / "impressions.parquet").height == 5
    assert pl.read_parquet(tmp_path / "out" / "results.parquet")["x"].to_list() == [1]
    described = json.loads((tmp_path / "out" / "split.json").read_text())
    assert (described["split"], described["data_hash"]) == ("time-cut", dataset.hash)
    assert described["train_events"] == len(wanted["train"])


def test_atomic_files_are_read_back_with_the_same_split(dataset: Dataset, tmp_path: Path) -> None:
    split = leave_last_two_out(dataset)
    export_split(tmp_path / "out", dataset, split, atomic=True)
    assert (tmp_path / "out" / "shop.train.inter").read_text().splitlines()[0].split("\t") == [
        "user_id:token",
        "item_id:token",
        "timestamp:float",
        "rating:float",
    ]
    again = Dataset.write(tmp_path / "again", atomic.read(tmp_path / "out"))
    assert parts(again, given(again).part) == parts(dataset, split.part)
    assert list(again.item_features.columns) == ["shelf", "words", "price", "title"]
    lines = (tmp_path / "out" / "shop.item").read_text().splitlines()
    assert lines[0] == "item_id:token\tshelf:token\twords:token_seq\tprice:float\ttitle:token"
    assert 'sku 3\trow 0\tgreen_tea hot\t1.5\tArticle, "no. 3"' in lines


def test_what_is_there_stays(dataset: Dataset, tmp_path: Path) -> None:
    split = time_cut(dataset)
    export_split(tmp_path / "out", dataset, split)
    with pytest.raises(FileExistsError):
        export_split(tmp_path / "out", dataset, split)
    export_split(tmp_path / "out", dataset, split, atomic=True, overwrite=True)
    assert not (tmp_path / "out" / "train.parquet").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear")
    with pytest.raises(FileExistsError):
        export_split(tmp_path / "mine", dataset, split, overwrite=True)
    assert (tmp_path / "mine" / "diary.txt").exists()


def test_what_atomic_files_cannot_hold_is_refused(tmp_path: Path) -> None:
    events = pl.DataFrame({"user_id": ["a\tb", "c", "c", "c"], "item_id": [1, 2, 3, 4], "timestamp": [1, 2, 3, 4]})
    wrong = Dataset.write(tmp_path / "wrong", Interactions.of(events, source="made up"))
    with pytest.raises(ValueError, match="user_id: an id holds a tab"):
        export_split(tmp_path / "out", wrong, leave_last_two_out(wrong), atomic=True)
    assert not (tmp_path / "out").exists()
    named = Dataset.write(tmp_path / "named", Interactions.of(events.tail(3), source="made up"), name="a.b")
    with pytest.raises(ValueError, match=r"data set name 'a\.b'"):
        export_split(tmp_path / "out", named, leave_last_two_out(named), atomic=True)
