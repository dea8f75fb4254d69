"""Vocabulary: numbering, looking up and giving back external ids."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.data.vocabulary import FIRST_ROW, PADDING, UNKNOWN, Vocabulary

INTS = st.integers(-(2**63), 2**63 - 1)
SMALL_INTS = st.integers(-5, 30)
STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def test_rows_start_after_padding_and_unknown() -> None:
    vocabulary = Vocabulary.of(pl.Series([30, 10, 30, 20]))
    assert vocabulary.ids.to_pylist() == [10, 20, 30]
    assert len(vocabulary) == 5
    assert vocabulary.id_type == "int64"
    rows = vocabulary.rows([10, 20, 30, 40, None])
    assert rows.dtype == np.int32
    assert rows.tolist() == [2, 3, 4, UNKNOWN, UNKNOWN]
    assert vocabulary.external([2, 4, PADDING, UNKNOWN]) == [10, 30, None, None]


def test_strings_sort_by_code_point() -> None:
    vocabulary = Vocabulary.of(pl.Series(["é", "z", "Z", "日本", "a"]))
    assert vocabulary.ids.to_pylist() == sorted(["é", "z", "Z", "日本", "a"])
    assert vocabulary.rows(["日本", "?"]).tolist() == [len(vocabulary) - 1, UNKNOWN]


@settings(deadline=None)
@given(st.one_of(st.lists(INTS), st.lists(SMALL_INTS), st.lists(STRINGS)), st.data())
def test_round_trip(values: list, data: st.DataObject) -> None:
    dtype = pl.String if values and isinstance(values[0], str) else pl.Int64
    vocabulary, rows = Vocabulary.number(pl.Series(values, dtype=dtype))
    assert rows.dtype == np.int32
    assert vocabulary.ids.to_pylist() == sorted(set(values))
    assert vocabulary.external(rows) == values
    assert vocabulary.rows(values).tolist() == rows.tolist()
    assert vocabulary.rows(pl.Series(values, dtype=dtype)).tolist() == rows.tolist()
    other = data.draw(INTS if dtype == pl.Int64 else STRINGS)
    if other not in values:
        assert vocabulary.rows([other]).tolist() == [UNKNOWN]


@pytest.mark.parametrize("spread", [1, 10**12])
@pytest.mark.parametrize("as_strings", [False, True])
def test_few_and_many_lookups_agree(spread: int, as_strings: bool) -> None:
    generator = np.random.default_rng(0)
    ids = np.unique(generator.integers(0, 5000, 3000)) * spread
    asked = generator.integers(-10, 5010, 20_000) * spread
    expected = {value: row + FIRST_ROW for row, value in enumerate(ids.tolist())}
    series, question = pl.Series(ids), pl.Series(asked)
    if as_strings:
        series, question = series.cast(pl.String), question.cast(pl.String)
    vocabulary = Vocabulary.of(series)
    if as_strings:
        expected = {value: row + FIRST_ROW for row, value in enumerate(vocabulary.ids.to_pylist())}
    many = vocabulary.rows(question)
    assert many.tolist() == [expected.get(value, UNKNOWN) for value in question.to_list()]
    assert vocabulary.rows(question[:20]).tolist() == many[:20].tolist()


def test_nulls_get_padding_when_numbered() -> None:
    for values in (pl.Series([3, None, 3]), pl.Series(["b", None, "b"])):
        assert Vocabulary.number(values)[1].tolist() == [2, PADDING, 2]


@pytest.mark.parametrize(
    "ids",
    [
        [10, 20],
        (10, 20),
        [10.0, np.int64(20)],
        np.array([10, 20]),
        np.array([10, 20], dtype=np.uint8),
        np.array([10.0, 20.0]),
        pa.array([10, 20]),
        pa.chunked_array([[10], [20]]),
        pl.Series([10, 20]),
    ],
)
def test_what_may_be_looked_up(ids: object) -> None:
    assert Vocabulary.of(pl.Series([10, 20])).rows(ids).tolist() == [2, 3]  # type: ignore[arg-type]


def test_missing_and_huge_ids_are_unknown() -> None:
    vocabulary = Vocabulary.of(pl.Series([0, 1]))
    assert vocabulary.rows([float("nan"), None, 2**70, -(2**70), 1]).tolist() == [1, 1, 1, 1, 3]
    assert vocabulary.rows(np.array([2**64 - 1, 0], dtype=np.uint64)).tolist() == [1, 2]
    assert vocabulary.rows(pl.Series([None, 0])).tolist() == [1, 2]


def test_ids_of_the_wrong_type_are_refused() -> None:
    with pytest.raises(ValueError, match="'10' is a str, but the ids of this data set are int64"):
        Vocabulary.of(pl.Series([10])).rows(["10"])
    with pytest.raises(ValueError, match="10 is a int, but the ids of this data set are string"):
        Vocabulary.of(pl.Series(["10"])).rows(np.array([10]))
    with pytest.raises(ValueError, match=r"0\.5 is a float"):
        Vocabulary.of(pl.Series([10])).rows([0.5])
    with pytest.raises(ValueError, match="inf is a float"):
        Vocabulary.of(pl.Series([10])).rows([float("inf")])
    with pytest.raises(ValueError, match="single string"):
        Vocabulary.of(pl.Series(["ab"])).rows("ab")
    with pytest.raises(ValueError, match="a vocabulary holds"):
        Vocabulary.of(pl.Series([0.5]))


@pytest.mark.parametrize("rows", [[5], [-1], np.array([99])])
def test_rows_outside_are_refused(rows: object) -> None:
    with pytest.raises(IndexError, match="outside the vocabulary's 4 rows"):
        Vocabulary.of(pl.Series([1, 2])).external(rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [[1, 5, 2**62], ["", "x", "日本"], []])
def test_save_and_open(tmp_path: Path, values: list) -> None:
    vocabulary = Vocabulary.of(pl.Series(values, dtype=pl.String if "x" in values else pl.Int64))
    vocabulary.save(tmp_path / "ids.arrow")
    again = Vocabulary.open(tmp_path / "ids.arrow")
    assert again == vocabulary
    assert again.external(again.rows(values)) == values


def test_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ids.arrow"
    Vocabulary.of(pl.Series([1, 2])).save(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"ids\.arrow: damaged"):
        Vocabulary.open(path)


def test_the_id_that_a_text_means() -> None:
    assert Vocabulary.of(pl.Series([5, 7])).parse("7", "item") == 7
    assert Vocabulary.of(pl.Series(["5", "x"])).parse("7", "item") == "7"
    with pytest.raises(ValueError, match="item 'x': the ids of this data set are whole numbers"):
        Vocabulary.of(pl.Series([5, 7])).parse("x", "item")


def test_a_table_is_no_sequence_of_ids() -> None:
    vocabulary = Vocabulary.of(pl.Series(["user_id", "a"]))
    for table in (pl.DataFrame({"user_id": ["a"]}), pa.table({"user_id": ["a"]}), {"user_id": ["a"]}):
        with pytest.raises(ValueError, match="pass its column"):
            vocabulary.rows(table)
