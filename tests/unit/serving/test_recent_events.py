"""Events after the export: they follow the stored history, at once, for known and unknown users alike."""

from __future__ import annotations

import numpy as np
import pytest
from small_system import SmallSystem, small_system

from corral.serving.recommender import TwoStageRecommender

USERS = [f"u{number:02d}" for number in range(8)]


@pytest.fixture
def system() -> SmallSystem:
    return small_system()


def stored_ids(recommender: TwoStageRecommender, user: str) -> list[str]:
    rows = recommender.tables.users.rows([user]).astype(np.int64)
    history = recommender.tables.histories.gather(rows, None)[0]
    return [item for item in recommender.tables.items.external(history) if item is not None]


@pytest.mark.parametrize("length", [2, 5, 50])
def test_recent_events_follow_the_stored_ones(system: SmallSystem, length: int) -> None:
    """The same lists as for a history that is given whole, however long the models' view of it is."""
    recommender = system.recommender(history_length=length)
    recent = {"u00": ["i01"], "u03": ["i20", "i07", "i20"], "u05": ["i11"] * 6}
    whole = [[*stored_ids(recommender, user), *recent.get(user, [])] or None for user in USERS]
    appended = recommender.recommend(USERS, 6, recent=recent, explain=True)
    given = recommender.recommend(USERS, 6, history=whole, explain=True)
    assert appended.item_ids == given.item_ids
    np.testing.assert_array_equal(appended.retriever_scores, given.retriever_scores)
    assert appended.closest_ids == given.closest_ids
    assert not appended.fallback.any()


def test_an_unknown_user_is_known_by_recent_events(system: SmallSystem) -> None:
    answer = system.recommender().recommend(["nobody", "somebody"], 5, recent={"nobody": ["i03", "i04"]})
    assert answer.fallback.tolist() == [False, True]
    assert {"i03", "i04"}.isdisjoint(answer.item_ids[0])


def test_recent_items_are_hidden_unless_asked_for(system: SmallSystem) -> None:
    recommender = system.recommender()
    recent = {"u03": recommender.recommend(["u03"], 3).item_ids[0]}
    assert set(recent["u03"]).isdisjoint(recommender.recommend(["u03"], 30, recent=recent).item_ids[0])
    assert set(recent["u03"]) <= set(recommender.recommend(["u03"], 30, recent=recent, filter_seen=False).item_ids[0])


def test_a_given_history_replaces_recent_events_for_the_models(system: SmallSystem) -> None:
    recommender = system.recommender()
    given = recommender.recommend(["u03"], 5, history=[["i02"]], filter_seen=False)
    both = recommender.recommend(["u03"], 5, history=[["i02"]], recent={"u03": ["i09"]}, filter_seen=False)
    assert both.item_ids == given.item_ids
    hidden = recommender.recommend(["u03"], 30, history=[["i02"]], recent={"u03": ["i09"]})
    assert {"i02", "i09"}.isdisjoint(hidden.item_ids[0])


def test_items_that_the_catalogue_lacks_change_nothing(system: SmallSystem) -> None:
    recommender = system.recommender()
    answer = recommender.recommend(["u03", "u00"], 5, recent={"u03": ["new", "newer"], "u00": ["new"]})
    assert answer.item_ids == recommender.recommend(["u03", "u00"], 5).item_ids
    assert answer.fallback.tolist() == [False, True]


def test_predictions_see_recent_events(system: SmallSystem) -> None:
    """Without a ranker a prediction is the inner product, which depends on the history alone."""
    recommender = system.recommender(ranker=False)
    recent = {"u03": ["i20", "i07"], "nobody": ["i02"], "somebody": ["i05"]}
    users = ["nobody", "u03", "somebody", "u04", "u03", "else", "nobody"]
    items = ["i01", "i01", "i01", "i01", "i08", "i01", "i09"]
    values = recommender.predict(users, items, recent=recent).values
    table = system.retriever.table.weight.detach().double().numpy()
    catalogue = recommender.tables.items
    for value, user, item in zip(values, users, items, strict=True):
        rows = catalogue.rows([*stored_ids(recommender, user), *recent.get(user, [])])
        query = table[rows].mean(axis=0) if len(rows) else np.zeros(4)
        assert value == pytest.approx(query @ table[int(catalogue.rows([item])[0])], abs=1e-5)


def test_an_explanation_says_where_each_stage_put_an_item(system: SmallSystem) -> None:
    answer = system.recommender(num_candidates=12).recommend(USERS, 5, explain=True)
    wide = system.recommender(num_candidates=12).recommend(USERS, 12, explain=True)
    explained, by_stage = answer.explanation, wide.explanation
    assert explained is not None
    assert by_stage is not None
    assert explained.ranker_ranks.tolist() == [[1, 2, 3, 4, 5]] * len(USERS)  # served by the ranker
    for place in range(1, len(USERS)):
        order = np.argsort(-by_stage.retriever_scores[place], kind="stable")
        ranks = {wide.item_ids[place][at]: rank for rank, at in enumerate(order, start=1)}
        assert [ranks[item] for item in answer.item_ids[place]] == explained.retriever_ranks[place].tolist()


def test_an_explanation_names_the_closest_items_of_the_history(system: SmallSystem) -> None:
    recommender = system.recommender(history_length=20)
    history = ["i03", "i09", "i03", "i12", "i15", "i09"]
    answer = recommender.recommend(["u00", "u01"], 4, history=[history, ["i03", "i03"]], explain=True)
    assert answer.closest_ids is not None
    assert answer.explanation is not None
    table = system.retriever.table.weight.detach().double().numpy()
    table = table / np.linalg.norm(table, axis=1, keepdims=True)
    rows = recommender.tables.items.rows
    for item, closest, cosines in zip(
        answer.item_ids[0], answer.closest_ids[0], answer.explanation.cosines[0], strict=True
    ):
        own = table[int(rows([item])[0])]
        wanted = sorted(set(history), key=lambda one: -float(table[int(rows([one])[0])] @ own))[:3]
        assert closest == wanted
        np.testing.assert_allclose(cosines, [float(table[int(rows([one])[0])] @ own) for one in wanted], atol=1e-5)
    assert answer.closest_ids[1] == [["i03", None, None]] * 4  # twice the same item is one
