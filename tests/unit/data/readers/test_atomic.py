"""RecBole atomic files with typed headers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from corral.data.interactions import ColumnMap
from corral.data.readers import atomic

Write = Callable[..., Path]

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu1\t10\t4\t100.0\nu2\t20\t5\t90\n"


def test_three_files(write: Write) -> None:
    write("tiny.inter", INTER)
    write("tiny.user", "user_id:token\tage:float\tsex:token\nu1\t30\tF\nu2\t\tM\n")
    folder = write(
        "tiny.item",
        "item_id:token\tmovie_title:token_seq\tclass:token_seq\tvector:float_seq\n"
        "10\tToy Story\tComedy War\t0.1 0.2\n20\tAlien\t\t0.3 0.4\n",
    )
    read = atomic.read(folder)
    assert read.events.rows() == [("u1", 10, 100, 4.0), ("u2", 20, 90, 5.0)]
    assert read.user_features is not None
    assert read.user_features.rows() == [("u1", 30.0, "F"), ("u2", None, "M")]
    assert read.item_features is not None
    assert read.item_features.rows() == [(10, "Toy Story", ["Comedy", "War"]), (20, "Alien", None)]
    assert read.text_columns == {"movie_title"}


def test_given_split_and_labels(write: Write) -> None:
    for part, item in (("train", 1), ("valid", 2), ("test", 3)):
        folder = write(f"t.{part}.inter", f"u:token\ti:token\tlabel:float\n7\t{item}\t1\n8\t{item}\t0\n")
    read = atomic.read(folder, columns=ColumnMap(user="u", item="i", label="label"))
    assert read.events.select("user_id", "item_id", "part").rows() == [(7, 1, 0), (7, 2, 1), (7, 3, 2)]
    assert read.impressions is not None
    assert read.impressions.select("user_id", "item_id", "part").rows() == [(8, 1, 0), (8, 2, 1), (8, 3, 2)]
    assert read.time_unit == "order"


def test_errors(write: Write) -> None:
    folder = write("tiny.inter", INTER + "u3\t30\tbad\t1\n")
    with pytest.raises(ValueError, match=r"tiny.inter, line 4, column 'value': 'bad': not a number"):
        atomic.read(folder)
    assert atomic.read(folder, skip_bad_rows=True).skipped.count == 1
    write("tiny.inter", INTER.replace("rating:float", "rating"))
    with pytest.raises(ValueError, match=r"line 1: 'rating' is not name:type"):
        atomic.read(folder)
    write("tiny.inter", INTER)
    with pytest.raises(ValueError, match=r"no field 'uid'; the header has user_id, item_id"):
        atomic.read(folder, columns=ColumnMap(user="uid"))
    write("other.inter", INTER)
    with pytest.raises(FileNotFoundError, match="name the file"):
        atomic.read(folder)
