"""The page: every panel with its numbers, hostile words as words, and a refusal for whatever else is asked."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

pytest.importorskip("altair")

from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_service import SmallService
from small_system import small_system

from corral.data.vocabulary import Vocabulary
from corral.report.item_names import Item
from corral.report.matching import Matched
from corral.serving.http.app import make_app
from corral.serving.http.limits import Limits
from corral.serving.http.micro_batches import BusyError, MicroBatches
from corral.serving.http.served_bundle import LoadedBundle, ServedBundle
from corral.studio.answer import Answer, Known
from corral.studio.consulted import Consulted, LookAlike
from corral.studio.entries import Entry, Reasons
from corral.studio.masked_ranker import Source
from corral.studio.page import PANELS, answer_page
from corral.studio.question import Question
from corral.studio.routes import mount_studio

WICKED = "</script><script>alert(1)</script><!-- & ' \""
CHANGES = {Source.HISTORY: 0.111, Source.LOOK_ALIKES: 0.222, Source.RECALL_ITEMS: -0.333}


def made_up(title: str = WICKED) -> Answer:
    """Two candidates that changed places, all words the same."""
    item, features = Item(title, title), {title: title}
    entries = [
        Entry(item, features, 1, 2, 2, 0.444, 1, 1.555, 2.666, Reasons(CHANGES, 7.111, 7.222, 7.333)),
        Entry(item, features, 2, 1, 1, 0.777, 2, 1.888, 2.999, Reasons(CHANGES, 8.111, 8.222, 8.333)),
    ]
    consulted = Consulted(
        item,
        [LookAlike(title, features, [title], 0.321, False), LookAlike(f"{title}2", features, [], 0.0, True)],
        [(item, 0.654)],
        Matched(title, [title, f"{title}2"], [title], np.array([[0.25], [0.75]])),
    )
    return Answer(
        "0123",
        "fused",
        features,
        [Known(item, features, 3, True)],
        [title],
        False,
        2,
        2,
        True,
        entries,
        {3: item},
        consulted,
    )


def question(**changes: object) -> Question:
    return Question.model_validate({"user_id": WICKED, "history": [WICKED], "without": [], "unlike": [], **changes})


def words(text: str) -> str:
    """What a person reads."""
    text = re.sub(r"<(style|script).*?</\1>", "", text, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text)))


def panel(text: str, name: str) -> str:
    found = re.search(rf'<section class="panel" id="{name}".*?</section>', text, re.DOTALL)
    assert found is not None, name
    return found[0]


def test_every_panel_has_its_numbers() -> None:
    text = answer_page(["one", "two"], question(beside="two"), made_up("Lamp"), made_up("Vase"))
    expected = {
        "list": ["1.555", "0.444", "2.666", "▲ 1", "Lamp (place 3, now no candidate)"],
        "beside": ["one (bundle 0123, 2 candidates)", "0 items stand in the first 10 of both", "no candidate"],
        "history": ["Lamp · Lamp: Lamp · 3 times", "2 of the given items are not in the catalogue"],
        "recall": ["0.777", "The first 2 of 2 candidates"],
        "consulted": ["User Lamp, weight 0.321", "lately: Lamp", "0.654"],
        "matching": ["Whom and what the ranker asked about Lamp"],
        "reasons": ["+0.111", "+0.222", "-0.333", "+7.222", "+7.333", "+7.111", "▼ 1"],
    }
    for name, parts in expected.items():
        for part in parts:
            assert part in words(panel(text, name)), (name, part)
    assert [name for name in re.findall(r'<section class="panel" id="(\w+)"', text) if name != "beside"] == list(PANELS)
    assert '"interest":0.75' in panel(text, "matching")
    assert 'name="without" value="Lamp" checked' in panel(text, "history")
    assert 'name="unlike" value="Lamp2" checked' in panel(text, "consulted")
    assert 'name="unlike" value="Lamp">' in panel(text, "consulted")


def test_words_of_the_data_stay_words() -> None:
    text = answer_page([WICKED, f"{WICKED}2"], question(beside=f"{WICKED}2"), made_up(), made_up())
    assert "<script>alert" not in text
    assert "alert(1)" in text
    assert len(re.findall(r"<script(?! type=\"application/json\")", text)) == 1
    assert not re.search(r"""(?:value|href|aria-label)="[^"]*<""", text)
    assert "default-src 'none'; script-src 'self'" in html.unescape(text)
    assert "form-action 'self'" in html.unescape(text)


def test_a_ranker_of_another_kind_and_none() -> None:
    bare = made_up("Lamp")
    entries = [replace(entry, ranker_place=None, logit=None, reasons=None) for entry in bare.entries]
    text = answer_page(["one"], question(), replace(bare, entries=entries, consulted=None, changed=False))
    assert "has no ranker" in panel(text, "reasons")
    for name in ("consulted", "matching"):
        assert "it is not one of RAR" in panel(text, name)
    assert "as served" not in words(panel(text, "list")).split("Lamp")[0].lower().replace("the list as served", "")
    empty = replace(bare.consulted, look_alikes=[], recalled=[], matched=None)  # type: ignore[type-var]
    text = answer_page(["one"], question(), replace(bare, consulted=empty))
    assert "nobody alike" in panel(text, "consulted")
    assert "no matrix" in panel(text, "matching")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The studio of the small system, with another of its kind beside it."""
    folder = tmp_path_factory.mktemp("studio")
    small, other = SmallService(folder / "events.sqlite"), SmallService(folder / "other.sqlite")
    other.seed = 1
    other.bundles.reload()
    app = make_app(small.bundles, small.store)
    mount_studio(app, "small", {"other": other.bundles})
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client
    small.close()
    other.close()


def test_the_start_offers_users_and_finds_them_by_their_beginning(client: TestClient) -> None:
    answer = client.get("/studio")
    assert answer.status_code == 200
    assert re.findall(r'href="studio\?user=(\w+)"', answer.text) == [f"u0{number}" for number in range(1, 8)]
    found = client.get("/studio", params={"user": "u0"})
    assert (found.status_code, "these ids begin so" in found.text) == (200, True)
    assert 'href="studio?user=u07"' in found.text
    nobody = client.get("/studio", params={"user": "<b>"})
    assert nobody.status_code == 404
    assert "nobody is known as &lt;b&gt;: no id begins so" in nobody.text


def test_an_answer_is_a_page_that_nobody_keeps(client: TestClient) -> None:
    answer = client.get("/studio", params={"user": "u05", "candidates": 4, "beside": "other"})
    assert answer.status_code == 200
    assert "User u05" in answer.text
    assert "small beside other" in panel(answer.text, "beside")
    assert "4 candidates" in words(panel(answer.text, "beside"))
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert client.get("/openapi.json").json()["paths"].keys().isdisjoint({"/studio", "/studio/charts.js"})


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ("user=u05&candidates=0", "num_candidates"),
        ("user=u05&candidates=1001", "num_candidates"),
        ("user=u05&candidates=many", "num_candidates"),
        ("user=u05&without=i99", "not in the history"),
        ("user=u05&unlike=u03", "no look-alike"),
        ("user=u05&beside=another", "there is other"),
        ("user=" + "u" * 300, "user_id"),
        ("history=" + "i01," * 1001, "history"),
    ],
)
def test_a_bad_question_is_refused_in_words(client: TestClient, parameters: str, words: str) -> None:
    answer = client.get(f"/studio?{parameters}")
    assert answer.status_code == 422
    assert answer.headers["content-type"].startswith("text/html")
    alert = re.search(r'role="alert">(.*?)</p>', answer.text)
    assert alert is not None
    assert words in alert[1]


NAMES = st.sampled_from(["user", "history", "candidates", "item", "without", "unlike", "beside", "other"])
VALUES = st.one_of(st.text(max_size=20), st.sampled_from(["u05", "i03", "i03,i04", "9" * 5000, "-1", "nan", "other"]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(NAMES, VALUES), max_size=6))
def test_nothing_that_is_asked_is_an_error(client: TestClient, parameters: list[tuple[str, str]]) -> None:
    answer = client.get("/studio", params=parameters)
    assert answer.status_code in (200, 404, 422)
    assert answer.text.startswith("<!DOCTYPE html>")


def test_a_busy_service_says_so(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def busy(*_: object) -> None:
        raise BusyError

    monkeypatch.setattr(MicroBatches, "ask", busy)
    answer = client.get("/studio", params={"user": "u05"})
    assert (answer.status_code, "try again" in answer.text) == (503, True)


def test_tokens_guard_the_studio(tmp_path: Path) -> None:
    small = SmallService(tmp_path / "events.sqlite")
    app = make_app(small.bundles, small.store, tokens=["a-token-of-the-tests"], limits=Limits())
    mount_studio(app, "small")
    with TestClient(app) as client:
        assert client.get("/studio").status_code == 401
        assert client.get("/studio", headers={"authorization": "Bearer a-token-of-the-tests"}).status_code == 200
    small.close()


def test_bundles_with_other_ids_are_not_compared(tmp_path: Path) -> None:
    small, numbers = SmallService(tmp_path / "events.sqlite"), small_system()
    numbers.tables = replace(numbers.tables, users=Vocabulary.of(pl.Series(range(8))))
    loaded = LoadedBundle(numbers.recommender(num_candidates=12), small.bundles.current.manifest)
    app = make_app(small.bundles, small.store)
    with pytest.raises(ValueError, match=r"numbers: its ids of users are int64, those of small string"):
        mount_studio(app, "small", {"numbers": ServedBundle(lambda: loaded)})
    small.close()
