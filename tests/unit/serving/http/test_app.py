"""The endpoints: what they answer, and that nothing that is sent makes them answer 500."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running_server import running
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from small_service import LATER, SmallService

from corral.serving.http.limits import Limits
from corral.serving.http.live_events import StoreError
from corral.serving.http.micro_batches import BusyError, MicroBatches
from corral.serving.slate_rules import SlateRules

BODIES: dict[str, dict[str, Any]] = {
    "/v1/recommend": {"users": [{"user_id": "u03"}], "k": 4},
    "/v1/predict": {"pairs": [{"user_id": "u03", "item_id": "i01"}]},
    "/v1/similar-items": {"ids": ["i01"], "k": 3},
    "/v1/similar-users": {"ids": ["u03"], "k": 3},
    "/v1/events": {"events": [{"user_id": "u03", "item_id": "i01", "time": LATER}]},
}
PATHS = [*BODIES, "/v1/bundle", "/v1/reload", "/health", "/ready", "/metrics"]
TOKEN = "a-token-of-the-tests"


def ask(client: TestClient, path: str, **changes: object) -> dict[str, Any]:
    answer = client.post(path, json={**BODIES[path], **changes})
    assert answer.status_code == 200, answer.text
    return answer.json()


def items(answer: dict[str, Any], place: int = 0) -> list[str]:
    return [item["item_id"] for item in answer["lists"][place]["items"]]


def test_lists_are_the_recommenders(service: SmallService, client: TestClient) -> None:
    recommender = service.bundles.current.recommender
    users = [
        {"user_id": "u03"},
        {"user_id": "nobody"},
        {"user_id": "u04", "history": ["i02", "what"]},
        {"history": ["i05"]},
    ]
    answer = ask(client, "/v1/recommend", users=users, k=5, deny=["i01"], explain=True)
    found = recommender.recommend(
        ["u03", "nobody", "u04", None], 5, deny=["i01"], history=[None, None, ["i02", "what"], ["i05"]], explain=True
    )
    assert [items(answer, place) for place in range(4)] == found.item_ids
    assert [one["user_id"] for one in answer["lists"]] == ["u03", "nobody", "u04", None]
    assert [one["fallback"] for one in answer["lists"]] == [False, True, False, False]
    assert [one["ignored_history"] for one in answer["lists"]] == [0, 0, 1, 0]
    assert (answer["served_by"], answer["bundle"]) == ("ranker", service.bundles.current.version)
    assert found.explanation is not None
    for place in range(4):
        explained = [item["explained"] for item in answer["lists"][place]["items"]]
        assert [one["retriever_rank"] for one in explained] == found.explanation.retriever_ranks[place].tolist()
        assert [one["ranker_rank"] for one in explained] == [1, 2, 3, 4, 5]
        assert {one["channel"] for one in explained} == {"popularity" if place == 1 else "retriever"}
    assert [one["item_id"] for one in answer["lists"][3]["items"][0]["explained"]["closest_in_history"]] == ["i05"]


def test_filters_shorten_lists(client: TestClient) -> None:
    assert set(items(ask(client, "/v1/recommend", allow=["i01", "i02", "no"], filter_seen=False))) == {"i01", "i02"}
    assert items(ask(client, "/v1/recommend", allow=[])) == []
    seen = ask(client, "/v1/recommend", k=1000, filter_seen=False)
    assert len(items(seen)) == 30
    assert "explained" not in seen["lists"][0]["items"][0] or seen["lists"][0]["items"][0]["explained"] is None


def test_rules_for_lists_are_the_recommenders(service: SmallService, client: TestClient) -> None:
    recommender = service.bundles.current.recommender
    new = ["i20", "i21"]
    asked = {"diversity": 0.3, "at_most": {"feature": "genre", "items": 2}, "min_new": 1, "new": new}
    rules = SlateRules(0.3, ("genre", 2), 1, new)
    found = items(ask(client, "/v1/recommend", k=12, filter_seen=False, slate=asked))
    wanted = recommender.recommend(["u03"], 12, filter_seen=False, slate=rules)
    assert found == [item for item in wanted.item_ids[0] if item is not None]
    assert set(found) & set(new)
    assert sum(int(item[1:]) % 3 == 0 for item in found) == 2  # g1: every third item
    assert found != items(ask(client, "/v1/recommend", k=12, filter_seen=False))
    for feature in ("price", "nothing"):
        rules_of_none = {"at_most": {"feature": feature, "items": 2}}
        answer = client.post("/v1/recommend", json={**BODIES["/v1/recommend"], "slate": rules_of_none})
        assert answer.status_code == 422
        assert "categorical ones: genre" in answer.json()["detail"]


def test_events_are_used_by_the_next_answer(service: SmallService, client: TestClient) -> None:
    before = items(ask(client, "/v1/recommend", users=[{"user_id": "new"}]))
    likes = [{"user_id": "new", "item_id": item, "time": LATER + place} for place, item in enumerate(["i04", "i09"])]
    assert ask(client, "/v1/events", events=likes) == {"stored": 2, "used": 2}
    after = ask(client, "/v1/recommend", users=[{"user_id": "new"}])
    expected = service.bundles.current.recommender.recommend(["new"], 4, recent={"new": ["i04", "i09"]})
    assert items(after) == expected.item_ids[0] != before
    assert not after["lists"][0]["fallback"]
    pairs = [{"user_id": "new", "item_id": "i01"}]
    assert ask(client, "/v1/predict", pairs=pairs)["predictions"][0]["value"] is not None
    assert ask(client, "/v1/events", events=likes) == {"stored": 2, "used": 2}  # again: counted once
    assert items(ask(client, "/v1/recommend", users=[{"user_id": "new"}])) == items(after)


def test_what_the_bundle_holds_is_not_doubled(service: SmallService, client: TestClient) -> None:
    as_of = service.bundles.current.recommender.tables.histories.as_of
    before = ask(client, "/v1/recommend")
    old = [{"user_id": "u03", "item_id": "i04", "time": time} for time in (as_of, as_of - 1)]
    assert ask(client, "/v1/events", events=old) == {"stored": 2, "used": 0}
    assert ask(client, "/v1/recommend") == before
    unknown = [{"user_id": "u03", "item_id": "of tomorrow", "time": as_of + 1}]
    assert ask(client, "/v1/events", events=unknown) == {"stored": 1, "used": 0}
    assert ask(client, "/v1/recommend") == before
    assert service.store.since(["u03"], as_of, 9) == {"u03": ["of tomorrow"]}  # the next bundle may know it


def test_predictions_and_neighbours_are_the_recommenders(service: SmallService, client: TestClient) -> None:
    recommender = service.bundles.current.recommender
    pairs = [("u03", "i01"), ("nobody", "i02"), ("u04", "what")]
    answer = ask(client, "/v1/predict", pairs=[{"user_id": user, "item_id": item} for user, item in pairs])
    assert [one["value"] for one in answer["predictions"]] == recommender.predict(pairs).values.tolist()
    assert answer["kind"] == "logit"
    assert [(one["known_user"], one["known_item"]) for one in answer["predictions"]] == [
        (True, True),
        (False, True),
        (True, False),
    ]
    for path, asked, search in (
        ("/v1/similar-items", ["i01", "what"], recommender.similar_items),
        ("/v1/similar-users", ["u03", "u00"], recommender.similar_users),
    ):
        lists = ask(client, path, ids=asked)["lists"]
        found = search(asked, 3)
        assert [one["id"] for one in lists[0]["neighbours"]] == found.neighbour_ids[0]
        assert [one["cosine"] for one in lists[0]["neighbours"]] == found.scores[0].tolist()
        assert (lists[1]["known"], lists[1]["neighbours"]) == (False, [])


def test_a_reload_serves_the_next_bundle_or_goes_on(service: SmallService, client: TestClient) -> None:
    old = client.get("/v1/bundle").json()
    assert old["index"]["kind"] == "exact"
    before = ask(client, "/v1/recommend")
    service.failure = ValueError("ranker.safetensors is damaged")
    refused = client.post("/v1/reload")
    assert refused.status_code == 409
    assert "ranker.safetensors is damaged" in refused.json()["detail"]
    service.failure = FileNotFoundError("gone")
    assert client.post("/v1/reload").status_code == 409
    assert client.get("/v1/bundle").json() == old
    assert ask(client, "/v1/recommend") == before
    service.failure, service.seed = None, 1
    new = client.post("/v1/reload")
    assert new.status_code == 200
    assert new.json()["version"] != old["version"]
    assert ask(client, "/v1/recommend")["bundle"] == new.json()["version"]
    counted = client.get("/metrics").text
    assert 'corral_reloads_total{result="refused"} 2.0' in counted
    assert f'corral_bundle_loaded_seconds{{version="{new.json()["version"]}"}}' in counted


def test_health_and_readiness(service: SmallService, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.get("/health").json() == {"state": "ok"}
    assert client.get("/ready").json() == {"state": "ready"}

    def broken(*words: object) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr(service.store, "check", broken)
    monkeypatch.setattr(service.store, "append", broken)
    assert client.get("/health").status_code == 200
    assert client.get("/ready").status_code == 503
    refused = client.post("/v1/events", json=BODIES["/v1/events"])
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"


@pytest.mark.parametrize("path", BODIES)
def test_an_answer_that_takes_too_long_is_503(
    service: SmallService, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = threading.Event()
    with service.client(limits=Limits(seconds=0.05)) as client:
        recommender = service.bundles.current.recommender
        for name in ("recommend", "predict", "similar_items", "similar_users"):
            monkeypatch.setattr(recommender, name, lambda *words, **keywords: flag.wait(5))
        monkeypatch.setattr(service.store, "append", lambda events: flag.wait(5))
        try:
            answer = client.post(path, json=BODIES[path])
        finally:
            flag.set()
    assert answer.status_code == 503
    assert "retry-after" in answer.headers


def test_a_full_queue_is_503(service: SmallService, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(self: object, job: object, size: int = 1) -> None:
        raise BusyError

    monkeypatch.setattr(MicroBatches, "ask", full)
    with service.client() as client:
        for path, body in BODIES.items():
            answer = client.post(path, json=body)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_an_error_of_ours_is_500_and_says_nothing(
    service: SmallService, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler works; all tests below would see a 500."""

    def broken(*words: object, **keywords: object) -> None:
        raise RuntimeError("secret u03")

    monkeypatch.setattr(service.bundles.current.recommender, "recommend", broken)
    answer = client.post("/v1/recommend", json=BODIES["/v1/recommend"])
    assert answer.status_code == 500
    assert "secret" not in answer.text


# --- what hostile clients send ---

HUGE = "x" * 100_000
WRONG: list[tuple[str, object]] = [
    ("k", 0),
    ("k", -1),
    ("k", 10**9),
    ("k", 10**400),
    ("k", 1.5),
    ("k", True),
    ("k", "10"),
    ("k", None),
    ("users", []),
    ("users", {}),
    ("users", "u03"),
    ("users", [{"user_id": "u03"}] * 1001),
    ("users", [["u03"]]),
    ("users", [{"user_id": 3}]),  # the ids of this bundle are strings
    ("users", [{"user_id": True}]),
    ("users", [{"user_id": ["u03"]}]),
    ("users", [{"user_id": ""}]),
    ("users", [{"user_id": HUGE}]),
    ("users", [{"user_id": 2**63}]),
    ("users", [{"user_id": "u03", "history": ["i01"] * 1001}]),
    ("users", [{"user_id": "u03", "history": [None]}]),
    ("users", [{"user_id": "u03", "history": [1]}]),
    ("users", [{"user_id": "u03", "history": "i01"}]),
    ("users", [{"user_id": "u03", "features": {"hour": 3}}]),  # the ranker has none
    ("users", [{"user_id": "u03", HUGE: 1}]),
    ("users", [{"user_id": f"u{number}"} for number in range(100)]),  # together with k = 1000
    ("allow", "i01"),
    ("allow", [1]),
    ("deny", ["i01"] * 10_001),
    ("deny", [{"a": "b"}]),
    ("filter_seen", "yes"),
    ("time", 2**63),
    ("time", 2**62 + 1),
    ("time", -1),
    ("time", 1.0),
    ("explain", 1),
    ("slate", []),
    ("slate", {"diversity": 1.5}),
    ("slate", {"diversity": "0.5"}),
    ("slate", {"min_new": -1}),
    ("slate", {"min_new": 10**9}),
    ("slate", {"new": [1]}),
    ("slate", {"new": ["i01"] * 10_001}),
    ("slate", {"at_most": {"feature": "genre", "items": 0}}),
    ("slate", {"at_most": {"feature": "genre"}}),
    ("slate", {"at_most": {"feature": HUGE, "items": 1}}),
    ("slate", {"at_most": ["genre", 1]}),
    ("slate", {"MMR": 1}),
    ("bundle", "../../etc/passwd"),
    ("__class__", {}),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{name}-{str(value)[:20]}" for name, value in WRONG])
def test_wrong_bodies_are_422_and_are_not_repeated(client: TestClient, name: str, value: object) -> None:
    changes = {"k": 1000, name: value} if name == "users" else {name: value}
    text = json.dumps({**BODIES["/v1/recommend"], **changes})
    answer = client.post("/v1/recommend", content=text, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert len(answer.text) < 3000
    assert answer.json().keys() == {"detail"}


def test_an_event_in_another_unit_is_refused(service: SmallService, client: TestClient) -> None:
    histories = service.bundles.current.recommender.tables.histories
    now = 1_700_000_000
    object.__setattr__(histories, "as_of", now)
    event = {"user_id": "u03", "item_id": "i01"}
    refused = client.post("/v1/events", json={"events": [{**event, "time": now + 1}, {**event, "time": now * 1000}]})
    assert refused.status_code == 422
    assert f"time {now * 1000}: the latest moment of this bundle is {now}" in refused.json()["detail"]
    assert ask(client, "/v1/events", events=[{**event, "time": now + 1}]) == {"stored": 1, "used": 1}


@pytest.mark.parametrize(("time", "said"), [(-1, "greater than or equal to 0"), (2**63 - 1, "less than or equal to")])
def test_moments_that_no_data_set_takes_are_refused(client: TestClient, time: int, said: str) -> None:
    for path, where in (("/v1/recommend", "time"), ("/v1/predict", "time"), ("/v1/events", "events.0.time")):
        body = json.loads(json.dumps(BODIES[path]))
        (body["events"][0] if path == "/v1/events" else body)["time"] = time
        answer = client.post(path, json=body)
        assert answer.status_code == 422
        assert f"body.{where}: Input should be {said}" in answer.json()["detail"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b"\0",
        b"[" * 100_000,
        b'{"users":' * 50_000,
        b'{"users":[{"user_id":"u03"}],"k":NaN}',
        b'{"users":[{"user_id":"u03"}],"time":Infinity}',
        b'{"users":[{"user_id":"\\ud800"}]}',
        b'{"users":[{"user_id":"u03","history":["\\udfff"]}]}',
        b'{"\\ud800":1}',
        b'{"users":[{"user_id":"u03","features":{"\\ud800":1e999}}]}',
        b'{"users":[{"user_id":"u03"}],"k":' + b"9" * 10_000 + b"}",
    ],
    ids=lambda text: repr(text[:40]),
)
@pytest.mark.parametrize("path", BODIES)
def test_what_is_no_body_is_refused(client: TestClient, path: str, text: bytes) -> None:
    answer = client.post(path, content=text, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert len(answer.text) < 3000


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "a/\xff", ""]
)
def test_other_content_types_are_refused(client: TestClient, kind: str) -> None:
    """A page in a browser may post plain text anywhere without asking."""
    headers = {"content-type": kind.encode("latin-1")} if kind else {}
    text = json.dumps(BODIES["/v1/events"]).encode()
    assert client.post("/v1/events", content=text, headers=headers).status_code == 422


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/recommend/",
        "/v1/../../etc/passwd",
        "/v1/%2e%2e/x",
        "/docs",
        "/redoc",
        "//v1/bundle",
        "/%00",
        "/" + "a" * 9000,
    ],
)
def test_other_paths_are_not_found(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (404, 405)
    assert "etc/passwd" not in answer.text


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
anything = st.recursive(
    scalars | st.sampled_from(["u03", "i01", 0, 1, 1000, LATER]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(
    ["users", "k", "slate", "allow", "deny", "time", "history", "pairs", "ids", "events", "user_id", "item_id"]
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    service = SmallService(tmp_path_factory.mktemp("shared") / "events.sqlite")
    with service.client() as client:
        yield client
    service.close()


@given(path=st.sampled_from(sorted(BODIES)), changes=st.dictionaries(names, anything, max_size=3))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_body_is_answered_or_refused(shared: TestClient, path: str, changes: dict[str, object]) -> None:
    text = json.dumps({**BODIES[path], **changes})  # NaN and lone surrogates too
    answer = shared.post(path, content=text, headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400, 422), answer.text
    assert len(answer.text) < 200_000


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Any:
    service = SmallService(tmp_path_factory.mktemp("schema") / "events.sqlite")
    app = service.client(tokens=[TOKEN]).app
    with running(app) as (host, port):  # type: ignore[arg-type]
        yield schemathesis.openapi.from_url(
            f"http://{host}:{port}/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"}
        )
    service.close()


@pytest.mark.parametrize(
    ("path", "mode"),
    [(path, schemathesis.GenerationMode.POSITIVE) for path in PATHS]
    + [(path, schemathesis.GenerationMode.NEGATIVE) for path in BODIES],
)
def test_the_service_keeps_to_its_openapi_document(
    schema: schemathesis.BaseSchema, path: str, mode: schemathesis.GenerationMode
) -> None:
    """Statuses, content types and bodies are those described; without the token nothing is answered."""
    (operation,) = schema[path].values()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    def keeps(case: schemathesis.Case) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = case.call(headers=headers)
        # An id may be a number or a string, but a bundle's are of one kind: the document cannot say which.
        # Of a body too large to read nobody can say what is wrong with it.
        large = [negative_data_rejection] if answer.status_code == 413 else []
        case.validate_response(answer, headers=headers, excluded_checks=[positive_data_acceptance, *large])

    keeps()


def test_the_thread_of_the_models_searches_alone(service: SmallService, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def note() -> None:
        told.append(threading.current_thread().name)

    monkeypatch.setattr("corral.serving.http.service.search_with_one_thread", note)
    with service.client() as client:
        ask(client, "/v1/recommend")
        ask(client, "/v1/similar-items")
    assert told == ["models_0"]


def test_every_path_of_the_document_is_tested(schema: schemathesis.BaseSchema) -> None:
    assert set(schema) == set(PATHS)
