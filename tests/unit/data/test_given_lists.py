"""read_lists: lists of other systems, checked; what is wrong is named with its line."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from corral.data.given_lists import GivenLists, read_lists
from corral.data.vocabulary import Vocabulary

NUMBERS = Vocabulary.of(pl.Series([1, 2, 3]))
NAMES = Vocabulary.of(pl.Series(["1", "2", "x"]))


def lists_of(found: GivenLists) -> dict[object, list[object]]:
    return dict(zip(found.users.to_list(), found.items.to_list(), strict=True))


def read(tmp_path: Path, text: str, items: Vocabulary = NUMBERS, **options: bool) -> GivenLists:
    path = tmp_path / "lists.csv"
    path.write_text(text)
    return read_lists(path, NUMBERS, items, **options)


def test_without_scores_the_rows_are_the_order(tmp_path: Path) -> None:
    found = read(tmp_path, "user_id,item_id\n2,3\n1,1\n2,1\n9,2\n2,77\n")
    assert lists_of(found) == {2: [3, 1, 77], 1: [1], 9: [2]}
    assert list(lists_of(found)) == [2, 1, 9]


def test_scores_decide_and_equal_ones_keep_the_order_of_the_rows(tmp_path: Path) -> None:
    found = read(tmp_path, "score,item_id,user_id\n0.1,3,2\n5,1,2\n0.1,2,2\n-1,3,1\n")
    assert lists_of(found) == {2: [1, 3, 2], 1: [3]}


def test_ids_get_the_type_of_the_data_set(tmp_path: Path) -> None:
    assert lists_of(read(tmp_path, "user_id,item_id\n2,1\n2,2\n", NAMES)) == {2: ["1", "2"]}
    assert lists_of(read(tmp_path, "user_id,item_id\n2,1.0\n2,2\n", NAMES)) == {2: ["1.0", "2"]}
    frame = pl.DataFrame({"user_id": ["2", "2"], "item_id": [1, 2]})
    assert lists_of(read_lists(frame, NUMBERS, NAMES)) == {2: ["1", "2"]}


def test_ids_of_19_digits(tmp_path: Path) -> None:
    snowflake = 1_800_000_000_000_000_001
    text = f"user_id,item_id\n2,{snowflake}\n2,1\n2,{2**63}\n"
    with pytest.raises(ValueError, match=rf"line 4, column 'item_id': '{2**63}': .* whole numbers.*--skip-bad-rows"):
        read(tmp_path, text)
    assert lists_of(read(tmp_path, text, skip_bad_rows=True)) == {2: [snowflake, 1]}


def test_bad_rows_are_named_or_dropped(tmp_path: Path) -> None:
    for text, message in (
        ("user_id,item_id\n2,3\n2,1\n2,3\n", "line 4, column 'item_id': '3': stands twice in the list of its user"),
        ("user_id,item_id,score\n2,3,1\n2,1,high\n", "line 3, column 'score': 'high': not a finite number"),
        ("user_id,item_id\n2,3\nbob,3\n", "line 3, column 'user_id': 'bob': the ids of this data set are whole"),
        ("user_id,item_id\n2,3\n2,01\n", "line 3, column 'item_id': '01': the ids of this data set are whole"),
        ("user_id,item_id\n2,\n", "line 2, column 'item_id': None: missing id"),
        ("user,item_id\n2,3\n", "no column 'user_id'"),
        ("user_id,item_id\n", "the table has no rows"),
    ):
        with pytest.raises(ValueError, match=message.replace("(", r"\(")):
            read(tmp_path, text)
    found = read(tmp_path, "user_id,item_id\n2,3\n2,1\n2,3\n1,2\n", skip_bad_rows=True)
    assert lists_of(found) == {2: [3, 1], 1: [2]}
    assert found.skipped.count == 1


def test_unknown_items_only_where_they_may_be(tmp_path: Path) -> None:
    text = "user_id,item_id\n2,3\n2,4\n2,1\n"
    assert lists_of(read(tmp_path, text)) == {2: [3, 4, 1]}
    with pytest.raises(ValueError, match="line 3, column 'item_id': '4': no such item in the data set"):
        read(tmp_path, text, refuse_unknown_items=True)
    assert lists_of(read(tmp_path, text, refuse_unknown_items=True, skip_bad_rows=True)) == {2: [3, 1]}
