"""Rules for whole lists, asked of the recommender: obeyed, and never at the price of k."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_system import SmallSystem, small_system

from corral.data.features import FeatureTable
from corral.evaluation.mixture import Mixture
from corral.evaluation.result import Stage
from corral.serving.slate_rules import SlateRules

USERS = ["u01", "u03", "u05", "nobody"]
IDS = [f"i{number:02d}" for number in range(30)]


def with_brands(brands: list[str | None]) -> SmallSystem:
    """The small system, with one brand an item."""
    system = small_system()
    frame = pl.DataFrame({"item_id": IDS, "brand": brands, "price": [1.0] * 30}, schema_overrides={"brand": pl.String})
    features = FeatureTable.build(frame, "item_id", system.tables.items)
    system.tables = replace(system.tables, item_features=features)
    return system


def shown(answer: object) -> list[list[str]]:
    return [ids[:count] for ids, count in zip(answer.item_ids, answer.counts, strict=True)]  # type: ignore[attr-defined]


def test_rules_that_bind_nothing_change_nothing() -> None:
    system = with_brands(["a"] * 30)
    for serve_by in (Stage.RETRIEVER, Stage.RANKER, Stage.FUSED):
        recommender = system.recommender(serve_by=serve_by, mixture=Mixture(0.4), num_candidates=12)
        plain = recommender.recommend(USERS, 7, explain=True)
        ruled = recommender.recommend(USERS, 7, slate=SlateRules(at_most=("brand", 7)), explain=True)
        assert ruled.item_ids == plain.item_ids
        np.testing.assert_allclose(ruled.scores, plain.scores)
        np.testing.assert_array_equal(ruled.retriever_scores, plain.retriever_scores)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_lists_obey_and_keep_k(data: st.DataObject) -> None:
    """The bound, the new items, and the length: each as good as the catalogue allows, counted by hand."""
    brands = data.draw(st.lists(st.sampled_from(["a", "a", "a", "b", "c", None]), min_size=30, max_size=30))
    most, k = data.draw(st.integers(1, 4), label="most"), data.draw(st.integers(1, 14), label="k")
    min_new = data.draw(st.integers(0, 5), label="min_new")
    new = data.draw(st.lists(st.sampled_from(IDS), unique=True, max_size=6), label="new")
    deny = data.draw(st.lists(st.sampled_from(IDS), max_size=10), label="deny")
    diversity = data.draw(st.sampled_from([0.0, 0.5]), label="diversity")
    recommender = with_brands(brands).recommender(num_candidates=data.draw(st.integers(1, 9)), batch_size=3)
    rules = SlateRules(diversity, ("brand", most), min_new, new)
    answer = recommender.recommend(USERS, k, deny=deny, slate=rules)
    every = recommender.recommend(USERS, 30, deny=deny)
    brand = dict(zip(IDS, brands, strict=True))

    def longest(ids: list[str]) -> int:
        sizes = Counter(brand[one] for one in ids)
        return sum(size if name is None else min(size, most) for name, size in sizes.items())

    for ids, left in zip(shown(answer), shown(every), strict=True):
        assert len(set(ids)) == len(ids)
        assert set(ids) <= set(left)
        assert all(size <= most for name, size in Counter(brand[one] for one in ids).items() if name is not None)
        assert len(ids) == min(k, longest(left))
        assert len(set(ids) & set(new)) >= min(k, min_new, longest([one for one in left if one in new]))
    if not diversity:
        assert (answer.scores[:, 1:] <= answer.scores[:, :-1]).all()


def test_new_items_are_those_without_train_events_unless_named() -> None:
    system = small_system()
    fresh = set(system.tables.items.external(np.flatnonzero(system.counts[2:] == 0) + 2))
    assert len(fresh) >= 3
    recommender = system.recommender(num_candidates=3)
    for ids in shown(recommender.recommend(USERS, 4, slate=SlateRules(min_new=3))):
        assert len(set(ids) & fresh) >= 3
    for ids in shown(
        recommender.recommend(USERS, 4, slate=SlateRules(min_new=1, new=["i07", "gone"]), filter_seen=False)
    ):
        assert "i07" in ids


def test_diversity_makes_lists_less_alike() -> None:
    system = small_system()
    recommender = system.recommender(num_candidates=20)
    vectors = torch.nn.functional.normalize(system.retriever.table.weight.detach(), dim=1)

    def alikeness(diversity: float) -> float:
        lists = recommender.recommend(USERS, 6, slate=SlateRules(diversity)).item_ids
        rows = torch.from_numpy(np.stack([system.tables.items.rows(ids) for ids in lists]).astype(np.int64))
        return float((vectors[rows] @ vectors[rows].transpose(1, 2)).mean())

    assert alikeness(0.9) < alikeness(0.4) < alikeness(0.0)
    first = [ids[0] for ids in recommender.recommend(USERS, 1).item_ids]
    assert [ids[0] for ids in recommender.recommend(USERS, 6, slate=SlateRules(0.9)).item_ids] == first


def test_rules_that_mean_nothing_are_refused() -> None:
    system = with_brands(["a"] * 30)
    for rules, message in (
        ({"diversity": 1.5}, "diversity 1.5"),
        ({"at_most": ("brand", 0)}, "brand=0"),
        ({"min_new": -1}, "min_new -1"),
    ):
        with pytest.raises(ValueError, match=message):
            SlateRules(**rules)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no such item feature; categorical ones: brand"):
        system.recommender().recommend(["u01"], 3, slate=SlateRules(at_most=("brnd", 1)))
    with pytest.raises(ValueError, match="a numeric item feature; categorical ones: brand"):
        system.recommender().recommend(["u01"], 3, slate=SlateRules(at_most=("price", 1)))
