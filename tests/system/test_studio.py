"""The studio on trained bundles, in a real browser without a network: picked, changed and compared by hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("altair", reason="corral[report] is not installed")
pytest.importorskip("vl_convert", reason="corral[report] is not installed")

from browser import CHROMIUM, DRIVER, Browser, browsing
from fastapi.testclient import TestClient
from studio_runs import studio_runs

from corral.cli.run import open_recommender
from corral.cli.serve import service_app
from corral.rar.ranker import RarRanker
from corral.serving.http.served_bundle import LoadedBundle
from corral.serving.http.sqlite_events import SqliteEvents
from corral.serving.manifest import read_manifest
from corral.studio.answer import answer
from corral.studio.page import PANELS
from corral.studio.question import Question

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no chromium here: apt-get install chromium chromium-driver"
)
USER = 3
STATE = "const root = document.documentElement; return {...root.dataset};"
ROWS = """
const rows = document.querySelectorAll(`#${arguments[0]} tbody tr`);
return [...rows].map((row) => [...row.children].map((cell) => cell.innerText));
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return studio_runs(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="module")
def address(runs: tuple[Path, Path]) -> Iterator[str]:
    """Of the page that ``corral studio`` serves, as it prints it."""
    command = [sys.executable, "-m", "corral.cli.main", "studio", *map(str, runs), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        assert server.stderr is not None
        line = next(line for line in server.stderr if "running on" in line)
        yield line.split("running on ")[1].split()[0] + "/studio"
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with browsing(tmp_path / "profile") as browser:
        browser.resize(1200, 2000)
        yield browser


def settled(browser: Browser) -> dict[str, str]:
    """The page's own account of itself once its charts are drawn: no error, no stolen run, nothing off its side."""
    browser.wait("return document.documentElement.dataset.charts !== undefined")
    state: dict[str, str] = browser.run(STATE)
    assert "error" not in state, state["error"]
    assert "stolen" not in state, "a title of the data ran as a program"
    needed, there = map(int, state["width"].split(" in "))
    assert needed <= there, "the page scrolls sideways"
    return state


def send(browser: Browser, css: str) -> dict[str, str]:
    """Sends a form and waits for the next page."""
    browser.run("document.documentElement.dataset.old = 1")
    browser.click(css)
    browser.wait("return document.documentElement.dataset.old === undefined && document.readyState === 'complete'")
    return settled(browser)


def listed(browser: Browser) -> list[str]:
    """Ids of the final list: the small letters under the titles begin with them."""
    return [row[0].split("\n")[1].split(" ")[0] for row in browser.run(ROWS, "list")]


@needs_browser
def test_a_list_is_picked_changed_and_compared(
    runs: tuple[Path, Path], address: str, browser: Browser, tmp_path: Path
) -> None:
    recommender = open_recommender(runs[0], "cpu")
    assert isinstance(recommender.ranker, RarRanker)
    browser.open(address)
    settled(browser)
    browser.type("input[name=user]", str(USER))
    state = send(browser, ".ask form button")
    assert state["charts"] == "1 of 1", "the matching matrix"
    served = recommender.recommend([USER], 10).item_ids[0]
    assert listed(browser) == list(map(str, served))
    ids = browser.run("return [...document.querySelectorAll('section.panel[id]')].map((panel) => panel.id)")
    assert ids == list(PANELS)
    for name in ("list", "recall", "consulted", "reasons"):
        assert len(browser.run(ROWS, name)) >= 3, name
    assert browser.run("return document.querySelectorAll('#matching svg path').length") > 10
    promoted = browser.run(ROWS, "reasons")[0]
    logit, history, users, items, total, together, bare = map(float, promoted[2:])
    assert total == pytest.approx(history + users + items, abs=0.002)
    assert logit == pytest.approx(bare + total + together, abs=0.002)
    assert abs(history) > 0.01
    assert abs(users) > 0.01
    browser.screenshot(tmp_path / "served.png")

    # Somebody who never had the item.
    boxes = browser.run("return [...document.querySelectorAll('#history input')].map((box) => box.value)")
    stored = recommender.tables.histories.gather(recommender.tables.users.rows([USER]), 6)[0].tolist()
    known = recommender.tables.items.external([row for row in stored if row])
    assert boxes == list(dict.fromkeys(map(str, reversed(known))))
    browser.click(f"#history input[value='{boxes[0]}']")
    send(browser, "#history button")
    kept = [item for item in known if str(item) != boxes[0]]
    assert listed(browser) == list(map(str, recommender.recommend([USER], 10, history=[kept]).item_ids[0]))
    assert "The list with the change" in browser.run("return document.querySelector('#list').innerText")

    # And whose ranker sees fewer, and does not ask its first look-alike.
    browser.type("input[name=candidates]", "6")
    alike = browser.run("return document.querySelector('#consulted input').value")
    browser.click("#consulted input")
    send(browser, "#consulted button")
    assert len(listed(browser)) == 6
    assert f"User {alike}, weight 0.000" in browser.run("return document.querySelector('#consulted').innerText")
    ticked = "return [...document.querySelectorAll('.choices input:checked')].map((box) => box.value)"
    assert browser.run(ticked) == [boxes[0], alike]
    assert "Gone from the first 10" in browser.run("return document.querySelector('#list').innerText")
    browser.screenshot(tmp_path / "changed.png")

    # Two bundles for the same user, on a telephone, by keyboard alone.
    browser.resize(390, 2000)
    browser.open(f"{address}?user={USER}")
    browser.run("document.querySelector('select[name=beside]').focus()")
    browser.run("document.documentElement.dataset.old = 1")
    browser.press("b\ue004\ue007")  # the one that begins so, then tab and enter
    browser.wait("return document.documentElement.dataset.old === undefined && document.readyState === 'complete'")
    settled(browser)
    beside = browser.run(ROWS, "beside")
    other = open_recommender(runs[1], "cpu").recommend([USER], 10).item_ids[0]
    assert [row[0].split("\n")[1] for row in beside] == [*map(str, served), *map(str, other)]
    browser.screenshot(tmp_path / "beside-phone.png")
    keep(tmp_path)


def keep(folder: Path) -> None:
    """Screenshots stay where ``CORRAL_SCREENSHOTS`` says, if it does."""
    kept = os.environ.get("CORRAL_SCREENSHOTS")
    if kept:
        Path(kept).mkdir(parents=True, exist_ok=True)
        for picture in folder.glob("*.png"):
            picture.replace(Path(kept) / picture.name)


@needs_browser
def test_titles_that_want_to_be_code_stay_titles(address: str, browser: Browser) -> None:
    for question in ("", "?user=<script>", "?history=1,6,11", f"?user={USER}&beside=bare"):
        browser.open(address + question)
        settled(browser)
    assert "dataset.stolen" in browser.run("return document.body.innerText")


def test_a_look_alike_left_out_is_a_table_without_it(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """The list that the studio shows is the one of a ranker that never met this look-alike."""
    recommender, other = open_recommender(runs[0], "cpu"), open_recommender(runs[0], "cpu")
    bundle, store = LoadedBundle(recommender, read_manifest(runs[0] / "bundle")), SqliteEvents(tmp_path / "events")
    whole = answer(bundle, Question(user_id=USER), store)
    assert whole.consulted is not None
    gone = whole.consulted.look_alikes[0]
    found = answer(bundle, Question(user_id=USER, unlike=[int(gone.id)], item=7), store)
    store.close()
    assert isinstance(other.ranker, RarRanker)
    row, user = (int(other.tables.users.rows([one])[0]) for one in (int(gone.id), USER))
    table = other.ranker.neighbours.u2u[:, user]
    table[table == row] = 0
    expected = other.recommend([USER], 16, explain=True)
    assert [entry.item.id for entry in found.entries] == list(map(str, expected.item_ids[0]))
    assert expected.ranker_logits is not None
    logits = [entry.logit for entry in found.entries]
    np.testing.assert_allclose(logits, expected.ranker_logits[0], rtol=1e-5, atol=1e-6)
    assert logits != [entry.logit for entry in whole.entries]
    assert found.consulted is not None
    assert found.consulted.item.id == "7"
    first = found.consulted.look_alikes[0]
    assert (first.id, first.left_out, first.weight) == (gone.id, True, 0.0)
    assert gone.weight > 0
    assert found.consulted.matched is not None
    assert len(found.consulted.matched.users) == len(whole.consulted.look_alikes) - 1
    # What a recall item weighs is what the look-alikes that are left make of it.
    weights = [weight for _, weight in found.consulted.recalled]
    np.testing.assert_allclose(weights, found.consulted.matched.matrix.mean(0), rtol=1e-5)


def test_it_serves_the_api_and_refuses_in_words(address: str) -> None:
    with urllib.request.urlopen(address.replace("/studio", "/ready")) as answer:
        assert answer.status == 200
    for question, status in (
        (f"user={USER}&candidates=none", 422),
        (f"user={USER}&without=x", 422),
        (f"user={USER}&item={'9' * 30}", 422),
        (f"user={'9' * 5000}", 422),
        ("history=1.5", 422),
        ("user=12345", 404),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}?{question}")
        assert refused.value.code == status, question
        assert b'role="alert"' in refused.value.read()


def test_without_what_draws_charts_the_service_stands_alone(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "altair" else find_spec(name))
    store = SqliteEvents(tmp_path / "events")
    with TestClient(service_app(runs[0], store)) as client:
        assert client.get("/ready").status_code == 200
        assert client.get("/studio").status_code == 404
    store.close()
