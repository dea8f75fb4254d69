"""add_items: new items by their features; and features that are missing."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from small_system import SmallSystem, small_system
from torch import nn

from corral.data.features import FeatureTable
from corral.retrieval.index import ExactIndex
from corral.retrieval.index_rule import IndexRule
from corral.retrieval.two_tower import TwoTower
from corral.serving.module_spec import ModuleSpec
from corral.serving.new_items import add_items
from corral.serving.recommender import TwoStageRecommender
from corral.serving.serving_tables import ServingTables

NEW = pl.DataFrame(
    {
        "item_id": ["a-first", "i05-and-a-half", "z-last"],  # before, between and after the known ids
        "genre": ["g1", None, "never seen"],
        "tags": [["x"], [], None],
        "price": [2.0, None, 7.0],
    }
)


def build(spec: ModuleSpec, tables: ServingTables) -> nn.Module:
    if spec.kind == "bias":
        return small_system().build(spec, tables)
    return TwoTower(
        len(tables.users), len(tables.items), None, tables.item_features, size=8, hidden=(8,), **spec.settings
    )


@pytest.fixture
def recommender() -> TwoStageRecommender:
    """A two-tower retriever over 30 items, whose features are null here and there."""
    system = small_system()
    items = system.tables.items
    frame = pl.DataFrame(
        {
            "item_id": items.ids.to_pylist(),
            "genre": ["g1", "g2", None] * 10,
            "tags": [["x"], ["x", "y"], None, [], ["z"]] * 6,
            "price": [1.0, None, 3.5] * 10,
            "title": ["t", None, "ü"] * 10,
        }
    )
    tables = replace(system.tables, item_features=FeatureTable.build(frame, "item_id", items, text_columns=["title"]))
    torch.manual_seed(0)
    retriever = build(ModuleSpec("two_tower"), tables).eval()
    rows = torch.arange(2, len(items))
    with torch.no_grad():
        index = ExactIndex(retriever.encode_items(rows), rows)
    return TwoStageRecommender(
        tables,
        retriever,
        index,
        system.popularity,
        ranker=system.ranker,
        specs={"retriever": ModuleSpec("two_tower"), "ranker": ModuleSpec("bias")},
    )


USERS = [f"u{number:02d}" for number in range(8)]


def test_null_features_are_no_error(recommender: TwoStageRecommender) -> None:
    answer = recommender.recommend(USERS, 30, filter_seen=False, explain=True)
    assert (answer.counts == 30).all()
    assert answer.retriever_scores is not None
    assert np.isfinite(answer.retriever_scores[~answer.fallback]).all()


def test_known_items_keep_their_scores(recommender: TwoStageRecommender) -> None:
    before = recommender.recommend(USERS, 30)
    longer = add_items(recommender, NEW, build)
    after = longer.recommend(USERS, 33, deny=NEW["item_id"].to_list())
    assert after.item_ids == before.item_ids
    np.testing.assert_allclose(after.scores, before.scores, rtol=1e-5, atol=1e-6)
    ids = [f"i{number:02d}" for number in range(30)]
    users = [USERS[number % 8] for number in range(30)]
    np.testing.assert_allclose(longer.predict(users, ids).values, recommender.predict(users, ids).values, rtol=1e-5)
    texts = longer.tables.item_features.columns["title"].texts
    assert texts[longer.tables.items.rows(["i02"])[0]].as_py() == "ü"
    # the old one is as it was
    assert recommender.recommend(USERS, 30).item_ids == before.item_ids


def test_new_items_are_placed_by_their_features(recommender: TwoStageRecommender) -> None:
    longer = add_items(recommender, NEW, build)
    answer = longer.recommend(USERS, 33, filter_seen=False)
    assert set(NEW["item_id"]) < set(answer.item_ids[3])
    assert longer.similar_items(["a-first"], 3).known.all()
    # a new item with the features of another differs from it only by the id: that of the unknown item
    features = longer.tables.item_features
    row, twin = longer.tables.items.rows(["a-first", "i00"])
    assert features.columns["genre"].values[row] == features.columns["genre"].values[twin]
    tags = features.columns["tags"]
    assert tags.values[tags.offsets[row] : tags.offsets[row + 1]].tolist() == (
        tags.values[tags.offsets[twin] : tags.offsets[twin + 1]].tolist()
    )
    codes = features.columns["genre"].values[longer.tables.items.rows(["i05-and-a-half", "z-last"])]
    assert codes.tolist() == [0, 1]  # missing, unknown
    # the ranker sees the unknown item
    bias = recommender.ranker.item.weight[1] + recommender.ranker.user.weight[5]  # type: ignore[union-attr]
    assert longer.predict(["u03"], ["z-last"]).values[0] == pytest.approx(float(bias.detach()), rel=1e-6)
    # and its history can name new items
    given = longer.recommend(["nobody"], 3, history=[["z-last"]])
    assert not given.fallback.any()
    assert given.ignored_history.tolist() == [0]


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="FAISS is not installed")
def test_a_longer_catalogue_is_indexed_by_the_rule(recommender: TwoStageRecommender) -> None:
    recommender.index_rule = IndexRule(exact_up_to=33)
    exact = add_items(recommender, NEW, build)
    recommender.index_rule = IndexRule(exact_up_to=30)
    longer = add_items(recommender, NEW, build)
    assert exact.index.description["kind"] == "exact"
    assert longer.index.description["kind"] == "faiss-ivf"
    assert longer.index.description["recall"] == 1.0  # so few have one list
    assert longer.recommend(USERS, 33).item_ids == exact.recommend(USERS, 33).item_ids
    assert longer.index_rule == recommender.index_rule


def test_a_retriever_of_ids_alone_is_refused() -> None:
    system: SmallSystem = small_system()
    frame = pl.DataFrame({"item_id": ["new"]})
    with pytest.raises(ValueError, match="MeanRetriever knows items by their id alone"):
        add_items(system.recommender(), frame, system.build)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pl.DataFrame({"genre": ["g1"]}), "item_id"),
        (NEW.clear(), "there are none"),
        (pl.DataFrame({"item_id": ["new", None]}), "null"),
        (pl.DataFrame({"item_id": ["new", "new"]}), "'new' comes twice"),
        (pl.DataFrame({"item_id": ["new", "i03"]}), "'i03' is in the catalogue already"),
        (pl.DataFrame({"item_id": [7]}), "7"),
        (NEW.rename({"genre": "gender"}), "no feature 'gender'"),
        (NEW.with_columns(price=pl.lit("dear")), "feature 'price'"),
    ],
)
def test_bad_new_items_are_refused(recommender: TwoStageRecommender, frame: pl.DataFrame, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        add_items(recommender, frame, build)


def test_items_of_later_events_are_told_from_those_of_the_catalogue(recommender: TwoStageRecommender) -> None:
    rows = recommender.index.items[1:]
    with torch.no_grad():
        recommender.index = ExactIndex(recommender.retriever.encode_items(rows), rows)
    later = str(recommender.tables.items.ids[0])
    with pytest.raises(ValueError, match=f"'{later}' has events after the train part alone"):
        add_items(recommender, pl.DataFrame({"item_id": [later]}), build)


def test_spec_is_needed(recommender: TwoStageRecommender) -> None:
    recommender.specs = {}
    with pytest.raises(ValueError, match="how to build its retriever"):
        add_items(recommender, NEW, build)
