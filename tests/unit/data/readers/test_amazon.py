"""Amazon sequence files and rating files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from corral.data.readers import amazon

Write = Callable[..., Path]


def test_sequences_with_attributes(write: Write) -> None:
    write("Beauty.txt.gz", "7 10 30 20\n3 10 20\n")
    folder = write("Beauty_item2attributes.json.gz", '{"10": [1, 2], "20": [], "30": [2]}')
    write("README.txt", "not a sequence file")
    read = amazon.read(folder)
    assert read.events.select("user_id", "item_id").rows() == [(7, 10), (7, 30), (7, 20), (3, 10), (3, 20)]
    assert read.events["timestamp"].is_sorted()
    assert read.time_unit == "order"
    assert read.item_features is not None
    assert read.item_features.rows() == [(10, [1, 2]), (20, []), (30, [2])]


def test_without_attributes(write: Write) -> None:
    read = amazon.read(write("Toys.txt", "1 2 3\n") / "Toys.txt")
    assert read.item_features is None


def test_bad_lines(write: Write) -> None:
    folder = write("Toys.txt", "1 2 3\n2 4 x\n\n3\n4 5\n")
    with pytest.raises(ValueError, match=r"Toys.txt, line 2, column 'line': '2 4 x': not numbers"):
        amazon.read(folder)
    read = amazon.read(folder, skip_bad_rows=True)
    assert read.events["user_id"].to_list() == [1, 1, 4]
    assert read.skipped.count == 2
    write("Toys.txt", "1 2 3\n3\n")
    with pytest.raises(ValueError, match="line 2: user 3 has no items"):
        amazon.read(folder)
    write("Toys.txt", "1 2 3\n2 3\n1 4\n")
    with pytest.raises(ValueError, match="line 3: user 1 has two lines"):
        amazon.read(folder)


def test_broken_attributes(write: Write) -> None:
    write("Toys.txt", "1 2 3\n")
    folder = write("Toys_item2attributes.json", '{"2": [1')
    with pytest.raises(ValueError, match=r"Toys_item2attributes.json: expected"):
        amazon.read(folder)
    write("Toys_item2attributes.json", '{"2": ["x"]}')
    with pytest.raises(ValueError, match=r"Toys_item2attributes.json: expected"):
        amazon.read(folder)


def test_two_sequence_files_must_be_named(write: Write) -> None:
    write("A.txt", "1 2\n")
    with pytest.raises(FileNotFoundError, match=r"found A.txt, B.txt; name it"):
        amazon.read(write("B.txt", "1 2\n"))


def test_ratings(write: Write) -> None:
    folder = write("ratings.csv", "A1,B0001,5.0,1369699200\nA2,B0002,3.0,1355443200\n")
    read = amazon.read_ratings(folder / "ratings.csv")
    assert read.events.rows() == [("A1", "B0001", 1369699200, 5.0), ("A2", "B0002", 1355443200, 3.0)]
    swapped = amazon.read_ratings(folder / "ratings.csv", columns=amazon.COLUMNS_2018)
    assert swapped.events["user_id"].to_list() == ["B0001", "B0002"]
    write("ratings.csv", "A1,B0001,five,1369699200\n")
    with pytest.raises(ValueError, match=r"ratings.csv, line 1, column 'value': 'five': not a number"):
        amazon.read_ratings(folder / "ratings.csv")


@pytest.mark.parametrize(
    ("name", "events", "users", "items", "attributes", "mean"),
    [
        ("amazon-beauty", 198_502, 22_363, 12_101, 637, 3.72),
        ("amazon-sports", 296_337, 35_598, 18_357, 2_277, 6.02),
    ],
)
def test_real(
    real: Callable[[str], Path], name: str, events: int, users: int, items: int, attributes: int, mean: float
) -> None:
    read = amazon.read(real(name))
    assert len(read) == events
    assert read.events["user_id"].n_unique() == users
    assert read.events["item_id"].n_unique() == items
    assert not read.events.select("user_id", "item_id").is_duplicated().any()
    assert read.item_features is not None
    assert len(read.item_features) == items
    assert read.item_features["attributes"].explode().n_unique() == attributes
    assert read.item_features["attributes"].list.len().mean() == pytest.approx(mean, abs=0.005)
