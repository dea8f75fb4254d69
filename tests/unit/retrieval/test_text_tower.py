"""TextVectors and TextTower: texts through an encoder with sentence-transformers' signature, new items by them."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import corral
from corral.cli.own_parts import OwnParts
from corral.cli.run import build_part
from corral.data.features import FeatureTable
from corral.data.vocabulary import Vocabulary
from corral.retrieval.text_tower import TextTower
from corral.retrieval.text_vectors import TextVectors
from corral.serving.new_items import add_items


class Words:
    """Counts of hashed words, unit length; the call as documented: ``encode(list[str]) -> array [n, E]``."""

    def __init__(self, size: int = 32) -> None:
        self.size, self.asked = size, 0

    def encode(self, sentences: list[str]) -> np.ndarray:
        assert isinstance(sentences, list)
        assert all(isinstance(text, str) and text for text in sentences)
        self.asked += len(sentences)
        found = np.zeros((len(sentences), self.size), dtype=np.float32)
        for row, text in enumerate(sentences):
            for word in text.split():
                found[row, sum(map(ord, word)) % self.size] += 1
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def items(titles: list[str | None], notes: list[str | None] | None = None) -> FeatureTable:
    frame = pl.DataFrame({"item_id": range(len(titles)), "title": titles, "note": notes or [None] * len(titles)})
    frame = frame.with_columns(pl.col("title", "note").cast(pl.String))
    return FeatureTable.build(frame, "item_id", Vocabulary.of(frame["item_id"]), ["title", "note"])


def test_texts_are_encoded_once_and_joined() -> None:
    encoder = Words()
    table = TextVectors(items(["red tea", None, "cup"], ["hot", "loose note", None]), encoder)
    assert (encoder.asked, table.size, len(table.vectors)) == (3, 32, 5)
    assert not table.vectors[:2].any()  # padding, unknown
    wanted = Words().encode(["red tea. hot", "loose note", "cup"])
    np.testing.assert_array_equal(table(torch.tensor([2, 3, 4])), wanted)
    only = TextVectors(items(["red tea", None, "cup"], ["hot", "loose note", None]), encoder, columns=["title"])
    assert not only.vectors[3].any()
    np.testing.assert_array_equal(only.vectors[2], Words().encode(["red tea"])[0])


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ValueError, match=r"no text column 'name', only title, note: name text columns"):
        TextVectors(items(["a"]), Words(), columns=["name"])
    with pytest.raises(ValueError, match="no text column, only their ids"):
        TextVectors(FeatureTable(4, {}), Words())
    with pytest.raises(ValueError, match="give the encoder, or"):
        TextVectors(items(["a"]), None)
    with pytest.raises(ValueError, match=r"gave \[2, 32\] for 2 texts, need \[2, 8\]"):
        TextVectors(items(["a", "b"]), Words(), size=8)
    with pytest.raises(ValueError, match="no item has a text"):
        TextVectors(items([None, None]), Words())

    class Broken(Words):
        def encode(self, sentences: list[str]) -> np.ndarray:
            return np.full((len(sentences), 4), np.nan)

    with pytest.raises(ValueError, match="not finite for 'tea'"):
        TextVectors(items(["tea"]), Broken())
    with pytest.raises(ValueError, match="decay"):
        TextTower(FeatureTable(4, {}), items(["a"]), encoder=Words(), decay=0.0)


def test_copies_share_the_encoder_and_renumbering_asks_it_for_new_items_alone() -> None:
    encoder = Words()
    table = copy.deepcopy(TextVectors(items(["tea", "cup"]), encoder))
    longer = items(["tea", "new pot", "cup"])
    table.renumber(torch.tensor([0, 1, 2, 4]), longer)
    assert encoder.asked == 3
    np.testing.assert_array_equal(table.vectors[2:], Words().encode(["tea", "new pot", "cup"]))


TOPICS = ("tea leaf green", "steel pan oven", "wool scarf winter", "lamp desk light")


@pytest.fixture(scope="module")
def world() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Users of one topic each; items whose text names their topic."""
    random = np.random.default_rng(0)
    shelf = pl.DataFrame({"item_id": range(40), "title": [f"{TOPICS[n % 4]} no{n}" for n in range(40)]})
    rows = [(user, user % 4 + 4 * int(random.integers(10)), time) for user in range(80) for time in range(8)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"), shelf


def test_an_item_that_nobody_met_is_found_by_its_text(world: tuple[pl.DataFrame, pl.DataFrame], tmp_path: Path) -> None:
    events, shelf = world
    few = {"retriever.history_length": 6, "retriever_training.epochs": 6, "retriever_training.learning_rate": 0.01,
           "ranker": None, "split.repeats": True}  # fmt: skip
    make = partial(TextTower, encoder=Words(), size=16, hidden=16)
    model = corral.TwoStage("two-stage", few, retriever=make).fit(events, item_features=shelf, text_columns=["title"])
    topics = [[item % 4 for item in row] for row in model.recommend([0, 1, 2, 3], 8).item_ids]
    assert topics == [[topic] * 8 for topic in range(4)]
    model.save(tmp_path / "bundle")
    # Served without the encoder: its vectors are in the bundle.
    bare = partial(TextTower, text_size=32, size=16, hidden=16)
    served = corral.TwoStage.load(tmp_path / "bundle", retriever=bare)
    assert served.recommend([0, 1, 2, 3], 8).item_ids == model.recommend([0, 1, 2, 3], 8).item_ids
    new = pl.DataFrame({"item_id": [100, 101], "title": [f"{TOPICS[1]} new", f"{TOPICS[3]} new"]})
    longer = add_items(model.recommender, new, partial(build_part, own=OwnParts(retriever=make)))
    found = longer.recommend([0, 1, 2, 3], 11).item_ids
    assert [100 in row for row in found] == [False, True, False, False]
    assert [101 in row for row in found] == [False, False, False, True]
    with pytest.raises(ValueError, match="cannot tell them apart"):
        add_items(served.recommender, new, partial(build_part, own=OwnParts(retriever=bare)))
