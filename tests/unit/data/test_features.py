"""FeatureTable: every kind of feature, by row."""

import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.data.features import FeatureKind, FeatureTable
from corral.data.vocabulary import Vocabulary

ITEMS = Vocabulary.of(pl.Series([10, 20, 30]))


def _build(columns: dict, keys: list | None = None, texts: tuple[str, ...] = ()) -> FeatureTable:
    frame = pl.DataFrame({"item_id": keys or [30, 10, 99], **columns})
    return FeatureTable.build(frame, "item_id", ITEMS, texts)


def test_no_frame_is_an_empty_table() -> None:
    table = FeatureTable.build(None, "item_id", ITEMS)
    assert table.rows == len(table) == 5
    assert not table.columns


def test_categorical_rows_are_aligned_and_missing_is_zero() -> None:
    column = _build({"brand": ["b", "a", "only of an unknown item"]}).columns["brand"]
    assert column.kind is FeatureKind.CATEGORICAL
    assert column.values.dtype == np.int32
    # padding, unknown, 10, 20 (not in the frame), 30
    assert column.values.tolist() == [0, 0, 2, 0, 3]
    assert column.vocabulary is not None
    assert column.vocabulary.external(column.values) == [None, None, "a", None, "b"]
    assert column.cardinality == 4


@pytest.mark.parametrize(
    ("values", "codes"),
    [
        (pl.Series([7, None, 1]), [0, 0, 0, 0, 2]),
        (pl.Series([True, False, True]), [0, 0, 2, 0, 3]),
        (pl.Series(["x", "", "y"]), [0, 0, 0, 0, 2]),
        (pl.Series(["x", "y", "y"], dtype=pl.Categorical), [0, 0, 3, 0, 2]),
        (pl.Series([1, 2, 3], dtype=pl.UInt8), [0, 0, 3, 0, 2]),
    ],
)
def test_kinds_of_categories(values: pl.Series, codes: list[int]) -> None:
    assert _build({"c": values}).columns["c"].values.tolist() == codes


def test_numeric_missing_is_nan() -> None:
    column = _build({"price": [1.5, None, 2.0]}).columns["price"]
    assert column.kind is FeatureKind.NUMERIC
    assert column.values.dtype == np.float32
    np.testing.assert_array_equal(column.values, np.array([np.nan, np.nan, np.nan, np.nan, 1.5], dtype=np.float32))
    with pytest.raises(ValueError, match="'price' is numeric"):
        _ = column.cardinality
    with pytest.raises(ValueError, match="only multi can be padded"):
        column.padded(3)


def test_text_is_kept_for_display() -> None:
    column = _build({"title": ["Ünï", None, "z"]}, texts=("title",)).columns["title"]
    assert column.kind is FeatureKind.TEXT
    assert column.texts is not None
    assert column.texts.to_pylist() == ["", "", "", "", "Ünï"]


def test_multi() -> None:
    column = _build({"genres": [["b", None, "a", "b"], [], ["c"]]}).columns["genres"]
    assert column.kind is FeatureKind.MULTI
    assert column.offsets is not None
    assert column.offsets.dtype == np.int64
    assert column.offsets.tolist() == [0, 0, 0, 0, 0, 3]
    assert column.values.tolist() == [3, 2, 3]
    assert column.padded(2).tolist() == [[0, 0], [0, 0], [0, 0], [0, 0], [3, 2]]
    assert column.padded(9).shape == (5, 3)


def test_multi_without_any_value() -> None:
    column = _build({"genres": pl.Series([None, [], None], dtype=pl.List(pl.String))}).columns["genres"]
    assert column.padded(4).tolist() == [[0]] * 5
    assert column.cardinality == 2


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), st.integers(-3, 3)), max_size=4)), min_size=1))
def test_multi_matches_a_plain_loop(lists: list) -> None:
    vocabulary = Vocabulary.of(pl.Series(range(len(lists))))
    frame = pl.DataFrame({"item_id": list(range(len(lists))), "m": pl.Series(lists, dtype=pl.List(pl.Int64))})
    column = FeatureTable.build(frame.reverse(), "item_id", vocabulary).columns["m"]
    assert column.offsets is not None
    assert column.vocabulary is not None
    padded = column.padded(3)
    for index, values in enumerate([[], [], *lists]):
        real = [value for value in values or [] if value is not None]
        row = column.values[column.offsets[index] : column.offsets[index + 1]]
        assert column.vocabulary.external(row) == real
        assert column.vocabulary.external(padded[index])[: len(real[:3])] == real[:3]
        assert not padded[index][len(real) :].any()


@pytest.mark.parametrize("values", [[datetime.date(2020, 1, 1)] * 3, [[0.5], [1.0], []]])
def test_unusable_types_say_what_to_do(values: list) -> None:
    with pytest.raises(ValueError, match=r"feature column 'bad' has type .* cast it"):
        _build({"bad": values})


def test_titles_are_the_first_text() -> None:
    table = _build({"brand": ["b", "a", "c"], "title": ["z", "x", "y"], "note": ["", "n", ""]}, texts=("title", "note"))
    assert table.titles is not None
    assert table.titles.to_pylist() == ["", "", "x", "", "z"]
    assert _build({"brand": ["b", "a", "c"]}).titles is None
