"""What the studio says of a list is what the recommender answers, with and without a change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_service import LATER, SmallService

from corral.serving.http.checks import RefusedError
from corral.serving.http.live_events import Event
from corral.serving.recommendations import Recommendations
from corral.studio.answer import Answer, UnknownUserError, answer
from corral.studio.question import Question


@pytest.fixture
def service(tmp_path: Path) -> Iterator[SmallService]:
    small = SmallService(tmp_path / "events.sqlite")
    yield small
    small.close()


def ask(service: SmallService, user: str | None = "u04", **changes: Any) -> Answer:
    question = Question(**{"user_id": user, "without": [], "unlike": [], **changes})
    return answer(service.bundles.current, question, service.store)


def places(found: Answer) -> list[str]:
    return [entry.item.id for entry in found.entries]


def check(found: Answer, expected: Recommendations) -> None:
    """Every number of every candidate."""
    explained = expected.explanation
    assert explained is not None
    assert places(found) == expected.item_ids[0]
    assert [entry.place for entry in found.entries] == list(range(1, len(found.entries) + 1))
    for column, entry in enumerate(found.entries):
        assert entry.retriever_place == explained.retriever_ranks[0, column]
        assert entry.retriever_score == explained.retriever_scores[0, column]
        assert entry.ranker_place == explained.ranker_ranks[0, column]  # type: ignore[index]
        assert entry.logit == explained.ranker_logits[0, column]  # type: ignore[index]
        assert entry.score == expected.scores[0, column]
        assert entry.reasons is not None
        parts = (entry.reasons.bare, entry.reasons.total, entry.reasons.remainder)
        np.testing.assert_allclose(sum(parts), entry.logit, rtol=1e-6)


def test_the_list_as_it_is_served(service: SmallService) -> None:
    recommender = service.bundles.current.recommender
    found = ask(service)
    check(found, recommender.recommend(["u04"], 12, explain=True))
    assert not found.changed
    assert [entry.before for entry in found.entries] == [entry.place for entry in found.entries]
    assert (found.dropped, found.consulted) == ({}, None)
    stored = recommender.tables.histories.gather(recommender.tables.users.rows(["u04"]), None)[0]
    assert list(found.kept) == recommender.tables.items.external(stored)
    assert [known.item.id for known in found.history] == list(dict.fromkeys(reversed(found.kept)))
    assert sum(known.times for known in found.history) == len(found.kept)


def test_an_item_left_out_of_the_history(service: SmallService) -> None:
    recommender, whole = service.bundles.current.recommender, ask(service)
    gone = "i25"  # it stands there twice
    kept = [item for item in whole.kept if item != gone]
    found = ask(service, without=[gone])
    check(found, recommender.recommend(["u04"], 12, history=[kept], explain=True))
    assert found.changed
    assert found.kept == kept
    assert [known.item.id for known in found.history if known.left_out] == [gone]
    served = {item: place for place, item in enumerate(places(whole), 1)}
    assert [entry.before for entry in found.entries] == [served.get(item, 0) for item in places(found)]
    assert {place: item.id for place, item in found.dropped.items()} == {
        place: item for item, place in served.items() if place <= 10 and item not in places(found)
    }
    assert places(found) != places(whole)


def test_fewer_and_more_candidates(service: SmallService) -> None:
    recommender = service.bundles.current.recommender
    for number in (3, 20, 1000):
        found = ask(service, num_candidates=number)
        check(
            found,
            recommender.varied(ranker=recommender.ranker, num_candidates=number).recommend(
                ["u04"], number, explain=True
            ),
        )
        assert found.changed
        assert len(found.entries) == min(number, 30 - len(set(found.kept)))
    first = sorted(ask(service).entries, key=lambda entry: entry.retriever_place)[:3]
    assert set(places(ask(service, num_candidates=3))) == {entry.item.id for entry in first}


def test_a_history_that_is_given_and_live_events(service: SmallService) -> None:
    recommender = service.bundles.current.recommender
    check(
        ask(service, None, history=["i02", "no", "i03"]),
        recommender.recommend([None], 12, history=[["i02", "i03"]], explain=True),
    )
    assert ask(service, None, history=["i02", "no", "i03"]).ignored == 1
    service.store.append([Event("new", "i04", LATER)])
    found = ask(service, "new")
    assert found.kept == ["i04"]
    check(found, recommender.recommend(["new"], 12, recent={"new": ["i04"]}, explain=True))


def test_a_user_without_a_history_gets_popular_items(service: SmallService) -> None:
    found = ask(service, "u00")
    assert found.fallback
    assert not found.history
    check(found, service.bundles.current.recommender.recommend(["u00"], 12, explain=True))


def test_what_is_not_there_is_refused(service: SmallService) -> None:
    with pytest.raises(UnknownUserError, match="nobody is known as who"):
        ask(service, "who")
    with pytest.raises(RefusedError, match="not in the history"):
        ask(service, without=["never"])
    with pytest.raises(RefusedError, match="leave one in"):
        ask(service, without=list(ask(service).kept))
    with pytest.raises(RefusedError, match="no look-alike"):
        ask(service, unlike=["u03"])
