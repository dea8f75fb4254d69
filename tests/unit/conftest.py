"""Shared by the tests of both stages: a small table with features of every kind."""

from __future__ import annotations

import polars as pl
import pytest

from corral.data.features import FeatureTable
from corral.data.vocabulary import Vocabulary


@pytest.fixture
def item_features() -> FeatureTable:
    """Four items, rows 2 to 5, with features of every kind."""
    frame = pl.DataFrame(
        {
            "item_id": [10, 11, 12, 13],
            "brand": ["a", "b", None, "a"],
            "genres": [["x", "y", "z"], ["y"], [], ["z"]],
            "price": [1.0, 3.0, None, 0.5],
            "title": ["one", "two", "three", "four"],
        }
    )
    return FeatureTable.build(frame, "item_id", Vocabulary.of(frame["item_id"]), ["title"])
