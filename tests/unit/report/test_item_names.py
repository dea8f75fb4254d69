"""Items as people know them."""

from __future__ import annotations

import polars as pl

from corral.data.features import FeatureTable
from corral.data.vocabulary import Vocabulary
from corral.report.item_names import Item, ItemNames, described, feature_words

ITEMS = Vocabulary.of(pl.Series([10, 20]))
FEATURES = FeatureTable.build(
    pl.DataFrame(
        {
            "item_id": [20, 10],
            "price": [1.5, None],
            "brand": [None, "b & co"],
            "tags": [["x", "y"], []],
            "title": ["Vase", ""],
            "note": ["fragile", ""],
        }
    ),
    "item_id",
    ITEMS,
    ["title", "note"],
)


def test_ids_and_titles() -> None:
    names = ItemNames(ITEMS, FEATURES)
    assert [names.item(row) for row in range(4)] == [
        Item("unknown", ""),
        Item("unknown", ""),
        Item("10", ""),
        Item("20", "Vase"),
    ]
    assert [names.item(row).name for row in (2, 3)] == ["10", "Vase"]
    assert [names.item(row).cell for row in (2, 3)] == ["10", ("Vase", "20")]
    assert ItemNames(ITEMS, FeatureTable(4)).item(3) == Item("20", "")


def test_what_the_data_says_of_a_row() -> None:
    assert feature_words(FEATURES, 3) == {"price": "1.5", "tags": "x, y", "note": "fragile"}
    assert feature_words(FEATURES, 2) == {"brand": "b & co"}
    assert feature_words(FEATURES, 1) == {}
    without_titles = FeatureTable(4, {"price": FEATURES.columns["price"]})
    assert feature_words(without_titles, 3) == {"price": "1.5"}


def test_all_of_it_in_one_cell() -> None:
    assert described(Item("20", "Vase"), {"price": "1.5"}, "", "2 times") == ("Vase", "20 · price: 1.5 · 2 times")
    assert described(Item("10", ""), {}) == "10"
