"""Requests answered together get what they would get alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_service import LATER, SmallService

from corral.serving.http.bodies import AtMost, RecommendBody, Slate, UserRequest
from corral.serving.http.live_events import Event
from corral.serving.http.metrics import Metrics
from corral.serving.http.recommend_batch import RecommendJob, recommend_batch

item_ids = st.sampled_from([f"i{number:02d}" for number in range(30)] + ["unknown"])
users = st.builds(
    UserRequest,
    user_id=st.sampled_from([f"u{number:02d}" for number in range(8)] + ["nobody"]) | st.none(),
    history=st.none() | st.lists(item_ids, max_size=4),
)
bodies = st.builds(
    RecommendBody,
    users=st.lists(users, min_size=1, max_size=3),
    k=st.sampled_from([1, 3, 12, 13, 40]),
    filter_seen=st.sampled_from([None, True, False]),
    allow=st.none() | st.just(["i01", "i02", "i03"]),
    deny=st.none() | st.just(["i01", "i09"]),
    time=st.sampled_from([None, 5]),
    slate=st.none()
    | st.builds(
        Slate,
        diversity=st.sampled_from([0.0, 0.5]),
        at_most=st.none() | st.just(AtMost(feature="genre", items=2)),
        min_new=st.sampled_from([0, 2]),
        new=st.none() | st.just(["i03", "i04", "i20"]),
    ),
    explain=st.booleans(),
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallService:
    service = SmallService(tmp_path_factory.mktemp("events") / "events.sqlite")
    service.store.append([Event("u01", "i05", LATER), Event("nobody", "i06", LATER), Event("u02", "unknown", LATER)])
    return service


def alike(one: object, other: object) -> bool:
    """Equal, but for the last digits of scores: a larger batch may round otherwise."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < 1e-5
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other


@given(asked=st.lists(bodies, min_size=1, max_size=5))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_together_as_alone(small: SmallService, asked: list[RecommendBody]) -> None:
    jobs = [RecommendJob(small.bundles.current, body) for body in asked]
    together = recommend_batch(jobs, small.store, Metrics())
    for job, answer in zip(jobs, together, strict=True):
        alone = recommend_batch([job], small.store, Metrics())[0]
        assert alike(answer.model_dump(), alone.model_dump())
    for body, answer in zip(asked, together, strict=True):
        assert [one.user_id for one in answer.lists] == [user.user_id for user in body.users]
        assert all(len(one.items) <= body.k for one in answer.lists)


def test_requests_that_may_share_a_call_do(small: SmallService) -> None:
    metrics = Metrics()
    one, wide = (RecommendBody(users=[UserRequest(user_id="u01")], k=k) for k in (3, 25))
    other = RecommendBody(users=[UserRequest(user_id=None, history=["i01"])], k=12)
    recommend_batch([RecommendJob(small.bundles.current, body) for body in (one, wide, other)], small.store, metrics)
    # 3 and 12 of the 12 candidates; the 25 need candidates of their own
    assert metrics.registry.get_sample_value("corral_batch_users_count") == 2
    assert metrics.registry.get_sample_value("corral_batch_users_sum") == 3


def test_a_request_keeps_to_the_bundle_it_was_checked_against(tmp_path: Path) -> None:
    service = SmallService(tmp_path / "events.sqlite")
    body = RecommendBody(users=[UserRequest(user_id="u03")], k=5)
    old = RecommendJob(service.bundles.current, body)
    service.seed = 1
    new = RecommendJob(service.bundles.reload(), body)
    answers = recommend_batch([old, new, old], service.store, Metrics())
    assert answers[0] == answers[2]
    assert (answers[0].bundle, answers[1].bundle) == (old.bundle.version, new.bundle.version)
    assert answers[0].lists != answers[1].lists
    service.close()
