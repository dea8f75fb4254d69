"""TwoStageRecommender.rerank: candidates of any system in the order in which this one would serve them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from small_system import SmallSystem, small_system

from corral.evaluation.mixture import Mixture
from corral.evaluation.result import Stage

USERS = ["u01", "u03", "u00", "nobody", "u05"]


@pytest.fixture
def system() -> SmallSystem:
    return small_system()


@pytest.mark.parametrize("serve_by", list(Stage))
def test_what_was_recommended_comes_back_in_its_order(system: SmallSystem, serve_by: Stage) -> None:
    """Also of users without a history, whose stage 1 is popularity; the mixture is the bundle's own."""
    recommender = system.recommender(serve_by=serve_by, mixture=Mixture(0.4), num_candidates=9, batch_size=2)
    served = recommender.recommend(USERS, 9)
    shuffled = [list(np.random.default_rng(0).permutation(ids)) for ids in served.item_ids]
    found = recommender.rerank(USERS, shuffled)
    assert found.item_ids == served.item_ids
    np.testing.assert_allclose(found.scores, served.scores, rtol=1e-5, atol=1e-6)
    assert found.fallback.tolist() == served.fallback.tolist() == [False, False, True, True, False]
    assert found.served_by == serve_by.value
    assert not found.short.any()
    first = recommender.rerank(USERS, shuffled, 4)
    assert first.item_ids == [ids[:4] for ids in served.item_ids]


def test_as_by_hand(system: SmallSystem) -> None:
    given = [["i07", "i02", "i11"], ["i02"], [], ["i05", "i04"], ["i01", "i02"]]
    found = system.recommender().rerank(USERS, given)
    for place, (user, ids) in enumerate(zip(USERS, given, strict=True)):
        rows = system.tables.items.rows(ids)
        logits = system.ranker.item.weight[rows, 0] + system.ranker.user.weight[system.tables.users.rows([user])[0]]
        order = np.argsort(-logits.detach().numpy())
        assert found.item_ids[place] == [ids[one] for one in order] + [None] * (3 - len(ids))
        np.testing.assert_allclose(found.scores[place, : len(ids)], logits.detach().numpy()[order], rtol=1e-6)
        assert np.isneginf(found.scores[place, len(ids) :]).all()
    assert found.counts.tolist() == [3, 1, 0, 2, 2]


def test_items_nobody_knows_stand_last_in_the_order_given(system: SmallSystem) -> None:
    recommender = system.recommender()
    found = recommender.rerank(["u01", "u03"], [["lost", "i07", "gone", "i02"], ["i02"]])
    known = recommender.rerank(["u01"], [["i07", "i02"]])
    assert found.item_ids == [[*known.item_ids[0], "lost", "gone"], ["i02", None, None, None]]
    np.testing.assert_array_equal(found.scores[0, :2], known.scores[0])
    assert np.isnan(found.scores[0, 2:]).all()
    assert found.counts.tolist() == [4, 1]
    assert recommender.rerank(["u01"], [["lost", "i07", "gone", "i02"]], 3).item_ids == [[*known.item_ids[0], "lost"]]
    assert recommender.rerank(["u01"], [["lost", "gone"]]).item_ids == [["lost", "gone"]]
    assert found.to_frame()["score"].null_count() == 2
    assert len(found.to_frame()) == 5
    # Columns of every library, and what comes back are Python's own values.
    for column in (pa.array, pl.Series, np.array):
        again = recommender.rerank(["u01", "u03"], [column(["lost", "i07", "gone", "i02"]), column(["i02"])])
        assert again.item_ids == found.item_ids
        assert {type(one) for row in again.item_ids for one in row} == {str, type(None)}


def test_seen_items_are_given_back(system: SmallSystem) -> None:
    row = int(system.tables.users.rows(["u03"])[0])
    histories = system.tables.histories
    seen = sorted(
        set(system.tables.items.external(histories.items[histories.offsets[row] : histories.offsets[row + 1]]))
    )
    assert set(system.recommender().rerank(["u03"], [seen]).item_ids[0]) == set(seen)


def test_recent_events_are_known(system: SmallSystem) -> None:
    recommender = system.recommender(serve_by=Stage.RETRIEVER)
    found = recommender.rerank(["nobody"], [["i05", "i04", "i03"]], recent={"nobody": ["i09"]})
    assert not found.fallback.any()
    table = system.retriever.table.weight.detach()
    wanted = table[system.tables.items.rows(found.item_ids[0])] @ table[system.tables.items.rows(["i09"])[0]]
    np.testing.assert_allclose(found.scores[0], wanted.numpy(), rtol=1e-5)


def test_bad_candidates_are_refused(system: SmallSystem) -> None:
    recommender = system.recommender()
    for given, message in (
        ([["i01"]], "candidates: need one list"),
        (["i01", "i02"], r"candidates\[0\]: need a list"),
        ([["i01", "i02", "i01"], []], "candidates of user 'u01': an item stands in them twice"),
        ([[7], []], "id 7 is a int"),
    ):
        with pytest.raises(ValueError, match=message):
            recommender.rerank(["u01", "u03"], given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="k must be"):
        recommender.rerank(["u01"], [["i01"]], 0)
    assert recommender.rerank([], []).item_ids == []
    assert recommender.rerank(["u01"], [[]]).item_ids == [[]]
