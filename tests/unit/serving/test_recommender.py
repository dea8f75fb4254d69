"""TwoStageRecommender: its fixed answers, against models whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_system import SmallSystem, small_system

from corral.cli.recommend import score_columns
from corral.evaluation.calibration import Calibration
from corral.evaluation.mixture import Mixture
from corral.evaluation.result import Stage
from corral.retrieval.popularity import PopularityRetriever
from corral.serving.recommendations import Recommendations

USERS = [f"u{number:02d}" for number in range(8)]


@pytest.fixture
def system() -> SmallSystem:
    return small_system()


def stored(system: SmallSystem, user: str) -> list[int]:
    row = int(system.tables.users.rows([user])[0])
    histories = system.tables.histories
    return histories.items[histories.offsets[row] : histories.offsets[row + 1]].tolist()


def expected(
    system: SmallSystem, user: str, k: int, hidden: set[int], history: list[int] | None = None
) -> tuple[list[str], list[float], list[float]]:
    """The ranker's order of the 10 best of the retriever, by Python: ids, logits, retriever scores."""
    table = system.retriever.table.weight.detach().double().numpy()
    query = table[np.array(history if history is not None else stored(system, user))].mean(axis=0)
    rows = [row for row in range(2, len(system.tables.items)) if row not in hidden]
    best = sorted(rows, key=lambda row: -float(table[row] @ query))[: max(k, 10)]
    user_row = int(system.tables.users.rows([user])[0])
    bias = system.ranker.item.weight.detach().double().numpy()[:, 0] + float(
        system.ranker.user.weight[user_row].detach()
    )
    order = sorted(best, key=lambda row: -bias[row])[:k]
    return (
        system.tables.items.external(order),
        [float(bias[row]) for row in order],
        [float(table[row] @ query) for row in order],
    )


def assert_sorted(answer: Recommendations) -> None:
    assert (answer.scores[:, 1:] <= answer.scores[:, :-1]).all()
    for ids, count, scores in zip(answer.item_ids, answer.counts, answer.scores, strict=True):
        assert None not in ids[:count]
        assert len(set(ids[:count])) == count
        assert set(ids[count:]) <= {None}
        assert np.isfinite(scores[:count]).all()
        assert np.isneginf(scores[count:]).all()


def test_both_stages_answer_as_by_hand(system: SmallSystem) -> None:
    answer = system.recommender(num_candidates=10).recommend(USERS[1:], 5, explain=True)
    assert answer.user_ids == USERS[1:]
    assert answer.served_by == "ranker"
    assert answer.retriever_scores is not None
    assert answer.ranker_logits is not None
    for place, user in enumerate(USERS[1:]):
        ids, logits, scores = expected(system, user, 5, set(stored(system, user)))
        assert answer.item_ids[place] == ids
        np.testing.assert_allclose(answer.scores[place], logits, rtol=1e-6)
        np.testing.assert_allclose(answer.retriever_scores[place], scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(answer.ranker_logits, answer.scores)
    assert not answer.fallback.any()
    assert not answer.short.any()
    assert_sorted(answer)


def test_seen_items_stay_when_asked(system: SmallSystem) -> None:
    answer = system.recommender(num_candidates=10).recommend(["u03"], 5, filter_seen=False)
    assert answer.item_ids[0] == expected(system, "u03", 5, set())[0]


def test_serve_by(system: SmallSystem) -> None:
    by_retriever = system.recommender(serve_by=Stage.RETRIEVER).recommend(USERS[1:], 6, explain=True)
    assert by_retriever.served_by == "retriever"
    np.testing.assert_array_equal(by_retriever.scores, by_retriever.retriever_scores)
    assert by_retriever.ranker_logits is not None
    alone = system.recommender(ranker=False).recommend(USERS[1:], 6, explain=True)
    assert alone.item_ids == by_retriever.item_ids
    assert alone.ranker_logits is None
    # the ends of the mixture are the stages
    for weight, serve_by in ((0.0, Stage.RETRIEVER), (1.0, Stage.RANKER)):
        fused = system.recommender(mixture=Mixture(weight)).recommend(USERS[1:], 6)
        assert fused.served_by == "fused"
        assert_sorted(fused)
        assert fused.item_ids == system.recommender(serve_by=serve_by).recommend(USERS[1:], 6).item_ids


def test_parts_that_do_not_fit_are_refused(system: SmallSystem) -> None:
    with pytest.raises(ValueError, match="serve_by=ranker needs a ranker"):
        system.recommender(ranker=False, serve_by=Stage.RANKER)
    with pytest.raises(ValueError, match="serve_by=fused needs a mixture"):
        system.recommender(serve_by=Stage.FUSED)
    with pytest.raises(ValueError, match="must be positive"):
        system.recommender(num_candidates=0)
    other = small_system(n_items=20)
    other.index = system.index
    with pytest.raises(ValueError, match="index has item row 31"):
        other.recommender()


def test_no_model_call_per_user(system: SmallSystem) -> None:
    recommender = system.recommender(batch_size=512)
    answer = recommender.recommend(USERS * 256, 5)
    assert len(answer) == 2048
    assert system.retriever.calls == system.ranker.calls == 4
    assert answer.item_ids[8:16] == answer.item_ids[:8]


def test_training_mode_is_left_alone_and_not_used(system: SmallSystem) -> None:
    system.retriever.train()
    recommender = system.recommender()
    one, two = recommender.recommend(USERS, 5), recommender.recommend(USERS, 5)
    assert one.item_ids == two.item_ids  # no dropout
    assert system.retriever.training


def test_unknown_user_gets_popular_items(system: SmallSystem) -> None:
    answer = system.recommender(serve_by=Stage.RETRIEVER).recommend(["nobody", "u01", "u00"], 4)
    assert answer.fallback.tolist() == [True, False, True]  # u00 is known, but has no history
    order = np.argsort(-system.counts[2:], kind="stable")[:4] + 2
    assert answer.item_ids[0] == answer.item_ids[2] == system.tables.items.external(order)
    assert answer.scores[0].tolist() == system.counts[order].tolist()
    assert_sorted(answer)


def test_the_ranker_orders_the_popular_items_of_an_unknown_user(system: SmallSystem) -> None:
    answer = system.recommender(num_candidates=6).recommend(["nobody"], 6, explain=True)
    order = np.argsort(-system.counts[2:], kind="stable")[:6] + 2
    assert set(answer.item_ids[0]) == set(system.tables.items.external(order))
    assert answer.ranker_logits is not None
    assert_sorted(answer)


def test_popular_items_pass_the_same_filters(system: SmallSystem) -> None:
    recommender = system.recommender(serve_by=Stage.RETRIEVER)
    best = recommender.recommend(["nobody"], 4).item_ids[0]
    denied = recommender.recommend(["nobody"], 3, deny=best[:1])
    assert denied.item_ids[0] == best[1:]
    allowed = recommender.recommend(["nobody"], 4, allow=best[2:])
    assert allowed.item_ids[0] == best[2:]
    assert allowed.short.all()
    # and come from the index, which may be a part of the catalogue
    system.index = type(system.index)(system.index.vectors[:3], system.index.items[:3])
    assert set(system.recommender().recommend(["nobody"], 4).item_ids[0]) == {"i00", "i01", "i02"}


def test_history_given_in_the_call(system: SmallSystem) -> None:
    recommender = system.recommender(num_candidates=10)
    answer = recommender.recommend(["nobody", "u03", "u03"], 5, history=[["i04", "i07"], ["i05"], None])
    assert not answer.fallback.any()
    rows = system.tables.items.rows(["i04", "i07", "i05"]).tolist()
    assert answer.item_ids[0] == expected(system, "nobody", 5, set(rows[:2]), rows[:2])[0]
    # takes the stored one's place for the models; both are hidden
    hidden = {rows[2], *stored(system, "u03")}
    assert answer.item_ids[1] == expected(system, "u03", 5, hidden, rows[2:])[0]
    assert answer.item_ids[2] == recommender.recommend(["u03"], 5).item_ids[0]


def test_only_the_latest_items_of_a_given_history_count(system: SmallSystem) -> None:
    recommender = system.recommender(history_length=2, num_candidates=10)
    long = recommender.recommend(["x"], 5, history=[["i01", "i02", "i03", "i04"]], filter_seen=False)
    short = recommender.recommend(["x"], 5, history=[["i03", "i04"]], filter_seen=False)
    assert long.item_ids == short.item_ids
    # but all of it is hidden
    hidden = recommender.recommend(["x"], 26, history=[["i01", "i02", "i03", "i04"]])
    assert not {"i01", "i02", "i03", "i04"} & set(hidden.item_ids[0])


def test_unknown_items_of_a_given_history_are_ignored_and_counted(system: SmallSystem) -> None:
    recommender = system.recommender()
    answer = recommender.recommend(
        ["nobody", "nobody", "u03", "nobody"],
        5,
        history=[["gone", "i04", None], ["gone"], ["gone", "lost"], []],
    )
    assert answer.ignored_history.tolist() == [2, 1, 2, 0]
    assert answer.fallback.tolist() == [False, True, False, True]
    assert answer.item_ids[0] == recommender.recommend(["nobody"], 5, history=[["i04"]]).item_ids[0]
    assert answer.item_ids[2] == recommender.recommend(["u03"], 5).item_ids[0]


def test_bad_histories_are_refused(system: SmallSystem) -> None:
    recommender = system.recommender()
    with pytest.raises(ValueError, match="for each of 2 users"):
        recommender.recommend(["u01", "u02"], 5, history=[["i01"]])
    with pytest.raises(ValueError, match=r"history\[0\]"):
        recommender.recommend(["u01"], 5, history=["i01"])
    with pytest.raises(ValueError, match=r"history\[0\]"):
        recommender.recommend(["u01"], 5, history=[7])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"id 7 is a int"):
        recommender.recommend(["u01"], 5, history=[[7]])


@pytest.mark.parametrize("k", [0, -1, True, 2.5, "3"])
def test_bad_k_is_refused(system: SmallSystem, k: object) -> None:
    recommender = system.recommender()
    for call in (recommender.recommend, recommender.similar_items, recommender.similar_users):
        with pytest.raises(ValueError, match="k must be a whole number of at least 1"):
            call([], k)  # type: ignore[operator]


def test_k_above_the_catalogue(system: SmallSystem) -> None:
    answer = system.recommender().recommend(["u01", "u03", "nobody"], 10**12)
    left = [30 - len(set(stored(system, user))) for user in ("u01", "u03")]
    assert answer.counts.tolist() == [*left, 30]
    assert answer.short.all()
    assert answer.requested == 10**12
    assert answer.scores.shape == (3, 30)
    assert_sorted(answer)


def test_no_users(system: SmallSystem) -> None:
    answer = system.recommender().recommend([], 5)
    assert len(answer) == 0
    assert answer.item_ids == []
    assert answer.to_frame().height == 0


def test_nothing_allowed(system: SmallSystem) -> None:
    answer = system.recommender().recommend(["u01", "nobody"], 5, allow=[])
    assert answer.counts.tolist() == [0, 0]
    assert answer.item_ids == [[], []]


def test_wrong_ids_are_refused(system: SmallSystem) -> None:
    with pytest.raises(ValueError, match="string"):
        system.recommender().recommend([1, 2], 5)
    with pytest.raises(ValueError, match="single string"):
        system.recommender().recommend("u01", 5)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_filters_keep_k(data: st.DataObject) -> None:
    """As many items as were asked for, or all that the filters leave; none of them filtered."""
    system = SHARED
    ids = [f"i{number:02d}" for number in range(30)]
    lists = st.none() | st.lists(st.sampled_from([*ids, "unknown"]), max_size=40)
    allow, deny = data.draw(lists, label="allow"), data.draw(lists, label="deny")
    users = data.draw(st.lists(st.sampled_from([*USERS, "nobody"]), min_size=1, max_size=5), label="users")
    history = [data.draw(lists) for _ in users] if data.draw(st.booleans()) else None
    k, filter_seen = data.draw(st.integers(1, 40), label="k"), data.draw(st.booleans(), label="filter_seen")
    candidates = data.draw(st.integers(1, 40), label="num_candidates")
    answer = system.recommender(num_candidates=candidates, batch_size=2).recommend(
        users, k, filter_seen=filter_seen, allow=allow, deny=deny, history=history
    )
    assert_sorted(answer)
    for place, user in enumerate(users):
        left = set(ids if allow is None else allow) - set(deny or ()) - {"unknown"}
        if filter_seen:
            left -= set(system.tables.items.external(stored(system, user)) if user != "nobody" else ())
            left -= set((history[place] if history else None) or ())
        shown = answer.item_ids[place][: answer.counts[place]]
        assert set(shown) <= left
        assert len(shown) == min(k, len(left))


SHARED = small_system()


def test_to_frame(system: SmallSystem) -> None:
    answer = system.recommender().recommend(["u01", "nobody"], 3, explain=True)
    frame = answer.to_frame()
    assert frame.columns == [
        "user_id",
        "rank",
        "item_id",
        "score",
        "fallback",
        "retriever_score",
        "ranker_logit",
    ]
    assert frame["rank"].to_list() == [1, 2, 3, 1, 2, 3]
    assert frame["item_id"].to_list() == answer.item_ids[0] + answer.item_ids[1]
    assert np.isfinite(frame["ranker_logit"].to_numpy()).all()


def test_predict_says_what_it_gives(system: SmallSystem) -> None:
    users, items = ["u01", "u03", "u01", "nobody"], ["i03", "i03", "gone", "i04"]
    logits = system.recommender().predict(users, items)
    assert logits.kind == "logit"
    assert logits.known_users.tolist() == [True, True, True, False]
    assert logits.known_items.tolist() == [True, True, False, True]
    user_rows, item_rows = system.tables.users.rows(users), system.tables.items.rows(items)
    wanted = (system.ranker.user.weight[user_rows] + system.ranker.item.weight[item_rows]).detach().numpy()[:, 0]
    np.testing.assert_allclose(logits.values, wanted, rtol=1e-6)
    calibrated = system.recommender(calibration=Calibration(2.0, -1.0, 100)).predict(
        list(zip(users, items, strict=True))
    )
    assert calibrated.kind == "probability"
    table = calibrated.to_frame()
    assert table.columns == ["user_id", "item_id", "probability", "known_user", "known_item"]
    assert table.rows()[3] == ("nobody", "i04", calibrated.values[3], False, True)
    np.testing.assert_allclose(calibrated.values, 1 / (1 + np.exp(1 - 2 * wanted)), rtol=1e-6)
    assert system.recommender(calibration=Calibration()).predict(users, items).kind == "logit"
    scores = system.recommender(ranker=False).predict(["u03"], ["i03"])
    assert scores.kind == "score"
    query = system.retriever.table.weight[stored(system, "u03")].mean(0)
    assert scores.values[0] == pytest.approx(float((query @ system.retriever.table.weight[5]).detach()), rel=1e-5)


def test_predict_many_pairs_in_any_order(system: SmallSystem) -> None:
    random = np.random.default_rng(0)
    users = [USERS[one] for one in random.integers(0, 8, 5_000)]
    items = [f"i{one:02d}" for one in random.integers(0, 30, 5_000)]
    recommender = system.recommender(batch_size=3)
    answer = recommender.predict(users, items)
    wanted = system.ranker.user.weight[system.tables.users.rows(users)]
    wanted = wanted + system.ranker.item.weight[system.tables.items.rows(items)]
    np.testing.assert_allclose(answer.values, wanted.detach().numpy()[:, 0], rtol=1e-6)
    assert system.ranker.calls < 20
    assert len(recommender.predict([], [])) == 0


def test_bad_pairs_are_refused(system: SmallSystem) -> None:
    with pytest.raises(ValueError, match="2 users, but 1 items"):
        system.recommender().predict(["u01", "u02"], ["i01"])
    with pytest.raises(ValueError, match="need pairs"):
        system.recommender().predict(["u01", "u02"])
    with pytest.raises(ValueError, match="need pairs"):
        system.recommender().predict([("u01", "i01", 3)])


def cosines(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


def test_similar_items(system: SmallSystem) -> None:
    answer = system.recommender().similar_items(["i03", "gone", "i20"], 4)
    assert answer.known.tolist() == [True, False, True]
    table = cosines(system.retriever.table.weight.detach().double().numpy()[2:])
    for place, item in ((0, 3), (2, 20)):
        order = [other for other in np.argsort(-table[item]) if other != item][:4]
        assert answer.neighbour_ids[place] == [f"i{other:02d}" for other in order]
        np.testing.assert_allclose(answer.scores[place], table[item, order], rtol=1e-5, atol=1e-6)
    assert answer.neighbour_ids[1] == [None] * 4
    table_of = answer.to_frame()
    assert table_of["id"].to_list() == ["i03"] * 4 + ["i20"] * 4
    assert table_of["neighbour_id"].to_list() == [*answer.neighbour_ids[0], *answer.neighbour_ids[2]]
    assert table_of["rank"].to_list() == [1, 2, 3, 4] * 2
    assert table_of["cosine"].to_list() == [*answer.scores[0], *answer.scores[2]]
    assert len(system.recommender().similar_items(["i03"], 100).neighbour_ids[0]) == 29


def test_similar_users(system: SmallSystem) -> None:
    answer = system.recommender().similar_users(["u03", "u00", "nobody"], 100)
    assert answer.known.tolist() == [True, False, False]  # u00 has no history
    weight = system.retriever.table.weight.detach().double().numpy()
    table = cosines(np.stack([weight[stored(system, user)].mean(0) for user in USERS[1:]]))
    order = [other for other in np.argsort(-table[2]) if other != 2]
    assert answer.neighbour_ids[0] == [USERS[1:][other] for other in order]
    np.testing.assert_allclose(answer.scores[0], table[2, order], rtol=1e-5, atol=1e-6)


def test_equal_scores_are_ordered_by_item_row(system: SmallSystem) -> None:
    with torch.no_grad():
        system.ranker.item.weight.zero_()
    answer = system.recommender(num_candidates=30).recommend(["u01"], 30)
    ids = answer.item_ids[0]
    assert ids == sorted(ids)


def test_ids_may_be_series_and_arrays(system: SmallSystem) -> None:
    recommender = system.recommender()
    wanted = recommender.recommend(USERS[:3], 3)
    for users in (pl.Series(USERS[:3]), np.array(USERS[:3]), np.array(USERS[:3], dtype=object)):
        answer = recommender.recommend(users, 3, deny=pl.Series(["unknown"]))  # type: ignore[arg-type]
        assert answer.item_ids == wanted.item_ids
        assert answer.user_ids == USERS[:3]


def test_repeats_are_recommended_where_the_system_was_judged_with_them(system: SmallSystem) -> None:
    everything = len(system.tables.items) - 2
    hidden = system.recommender().recommend(["u03"], everything)
    shown = system.recommender(repeats=True).recommend(["u03"], everything)
    assert shown.counts[0] == everything > hidden.counts[0]
    assert system.recommender(repeats=True).recommend(["u03"], everything, filter_seen=True).item_ids == hidden.item_ids


def test_the_query_is_what_the_models_are_asked(system: SmallSystem) -> None:
    recommender = system.recommender(history_length=4)
    query = recommender.query(
        ["u03", "u04", "nobody"], history=[None, ["i02", "what", "i05"], None], recent={"u03": ["i07"]}, time=9
    )
    kept = stored(system, "u03")[-3:]
    assert query.user.tolist() == [5, 6, 1]
    assert query.history.tolist() == [[*kept, 9], [0, 0, 4, 7], [0, 0, 0, 0]]
    assert query.time.tolist() == [9, 9, 9]
    assert query.event.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("time", [2**63, -(2**63) - 1])
def test_a_time_that_int64_does_not_hold_is_refused(system: SmallSystem, time: int) -> None:
    with pytest.raises(ValueError, match=f"time {time} does not fit into int64$"):
        system.recommender().recommend(["u03"], 3, time=time)
    late = replace(system.tables, histories=replace(system.tables.histories, as_of=2**63 - 1))
    with pytest.raises(ValueError, match="latest stored event: that one's time is wrong"):
        replace(system, tables=late).recommender().recommend(["u03"], 3)


def test_a_varied_recommender_has_the_same_parts(system: SmallSystem) -> None:
    whole = system.recommender(num_candidates=10, repeats=True, mixture=Mixture(0.3))
    few = whole.varied(ranker=whole.ranker, num_candidates=4)
    first = whole.recommend(USERS, 10, explain=True)
    found = few.recommend(USERS, 4, explain=True)
    assert first.explanation is not None
    for place, items in enumerate(found.item_ids):
        ranks = first.explanation.retriever_ranks[place]
        assert set(items) == {item for item, rank in zip(first.item_ids[place], ranks, strict=True) if rank <= 4}
    assert (found.served_by, whole.num_candidates, few.repeats) == ("fused", 10, True)
    again = whole.varied(ranker=whole.ranker, num_candidates=10).recommend(USERS, 10)
    assert again.item_ids == first.item_ids


def test_columns_of_ids_give_ids_back_and_tables_are_refused(system: SmallSystem) -> None:
    recommender = system.recommender()
    for column in (pa.array(USERS[:2]), pl.Series(USERS[:2]), np.array(USERS[:2])):
        assert recommender.recommend(column, 2).user_ids == USERS[:2]
    with pytest.raises(ValueError, match="pass its column"):
        recommender.recommend(pl.DataFrame({"user_id": USERS[:2]}), 2)
    with pytest.raises(ValueError, match="pass its columns"):
        recommender.predict(pl.DataFrame({"user_id": USERS[:2], "item_id": [2, 3]}))


def test_a_retriever_without_vectors_knows_nothing_alike(system: SmallSystem) -> None:
    popular = system.recommender()
    popular.retriever = PopularityRetriever(torch.from_numpy(system.counts))
    with pytest.raises(ValueError, match="no vectors"):
        popular.similar_items([2], 2)


def test_scores_of_popular_items_say_whose_they_are(system: SmallSystem) -> None:
    for stage, names in (
        (Stage.RANKER, ["train events", "ranker logit", "score: ranker"]),
        (Stage.RETRIEVER, ["train events", "ranker logit", "score: train events"]),
    ):
        answer = system.recommender(serve_by=stage).recommend(["nobody"], 3, explain=True)
        assert list(score_columns(answer, 0)) == names


def test_histories_may_be_columns_with_an_index_of_their_own(system: SmallSystem) -> None:
    items = system.tables.items.ids.to_pylist()
    listed = [items[1], "gone", items[2]]
    column = pd.Series(listed, index=[7, 0, 3])
    recommender = system.recommender()
    one, other = (recommender.recommend(["nobody"], 3, history=[given]) for given in (listed, column))
    assert one.item_ids == other.item_ids
    assert one.ignored_history.tolist() == other.ignored_history.tolist() == [1]
