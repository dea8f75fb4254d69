"""The report in a real browser, without a network: every panel and chart, no error, no sideways scrolling."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest

pytest.importorskip("altair", reason="corral[report] is not installed")
pytest.importorskip("vl_convert", reason="corral[report] is not installed")

from corral.cli.experiment import Experiment
from corral.cli.report import gather, write_report
from corral.cli.run import train_run
from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.report.page import PANELS
from corral.settings import load_settings

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
WICKED = "</script><script>document.documentElement.dataset.stolen = 1</script><!-- <script>"
RECIPE = """
data: {{path: {data}}}
split: {{valid_fraction: 0.15, test_fraction: 0.15}}
retriever: {{kind: sasrec, size: 8, blocks: 1, max_length: 8}}
retriever_training: {{epochs: {epochs}, batch_size: 64}}
ranker: {ranker}
ranker_training: {{loss: clicks, label_at_least: 3, epochs: 2, batch_size: 256, metric: auc}}
evaluation: {{num_candidates: 20, serve_by: {serve_by}}}
"""
RANKER = "{kind: fm, field_size: 4, history_length: 8}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two finished runs on the same small shop, whose items have titles that want to be code."""
    folder = tmp_path_factory.mktemp("report")
    rng, n = np.random.default_rng(0), 6_000
    items = np.minimum(rng.geometric(0.03, n), 80)
    events = pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in rng.integers(0, 150, n)],
            "item_id": items,
            "timestamp": np.sort(rng.integers(1_600_000_000, 1_630_000_000, n)),
            "value": (1 + items % 5).astype(np.float32),
        }
    )
    known = np.unique(items)
    titles = [WICKED if item % 2 else f"Brush & Co <b>{item}</b>" for item in known[:-10]] + [""] * 10
    features = pl.DataFrame({"item_id": known, "title": titles, "shelf": [str(item % 7) for item in known]})
    interactions = Interactions.of(
        events, item_features=features, text_columns=["title"], source="made up", licence="none <needed>"
    )
    data = Dataset.write(folder / "data", interactions, name="shop & <i>co</i>")
    found = {}
    for name, ranker, serve_by, epochs in (("both", RANKER, "fused", 3), ("first", "null", "validation", 1)):
        recipe = RECIPE.format(data=data.path, ranker=ranker, serve_by=serve_by, epochs=epochs)
        if ranker == "null":
            recipe = recipe.replace("loss: clicks, label_at_least: 3, ", "").replace(", metric: auc", "")
        found[name] = folder / name
        train_run(Experiment.start(load_settings(recipe, name), found[name], quiet=True))
    return found


def opened(page: Path, tmp_path: Path, width: int = 1200) -> str:
    """The document after its scripts ran, in a browser whose every request to a host fails."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path / f'profile-{width}'}",
        f"--window-size={width},2000",
        "--virtual-time-budget=30000",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout


def check_document(document: str, ids: list[str]) -> None:
    opening = re.search(r"<html[^>]*>", document)
    assert opening is not None
    state = {key: html.unescape(value) for key, value in re.findall(r'data-([a-z]+)="([^"]*)"', opening[0])}
    assert "error" not in state, state["error"]
    assert "stolen" not in state, "a title of the data ran as a program"
    drawn, total = state["charts"].split(" of ")
    assert drawn == total != "0"
    needed, there = map(int, state["width"].split(" in "))
    assert needed <= there, "the page scrolls sideways"
    charts = re.findall(r'<div class="chart[^>]*data-state="(\w+)"[^>]*>(.*?)<script', document, re.DOTALL)
    assert len(charts) == int(total)
    for state_of_chart, inside in charts:
        assert state_of_chart == "drawn"
        assert "<svg" in inside
        assert "<path" in inside
    for name in ids:
        assert f'<section class="panel" id="{name}"' in document


@needs_browser
@pytest.mark.parametrize("name", ["both", "first"])
def test_every_panel_of_a_run(runs: dict[str, Path], name: str, tmp_path: Path) -> None:
    page = write_report(gather([runs[name]], quiet=True), tmp_path / "page" / "report.html")
    assert page.stat().st_size < 5_000_000
    for width in (1200, 390):
        check_document(opened(page, tmp_path, width), list(PANELS))


@needs_browser
def test_every_panel_of_a_comparison(runs: dict[str, Path], tmp_path: Path) -> None:
    page = write_report(gather([runs["both"], runs["first"]], examples=3, quiet=True), tmp_path / "both.html")
    ids = ["comparison", *(f"run-{place}-{name}" for place in (1, 2) for name in PANELS)]
    check_document(opened(page, tmp_path), ids)


def test_the_page_asks_for_nothing(runs: dict[str, Path], tmp_path: Path) -> None:
    page = write_report(gather([runs["both"]], quiet=True), tmp_path / "report.html")
    text = page.read_text(encoding="utf-8")
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*\b(?:src|href)=", own)
    assert "@import" not in own
    assert "url(" not in own
    assert text.count("vegaEmbed=") == 1
    assert "default-src 'none'" in html.unescape(own)
    assert not list(tmp_path.glob("*.tmp-*"))


def test_an_unfinished_run_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(runs["first"] / "settings.yaml", tmp_path / "run")
    with pytest.raises(ValueError, match="not finished"):
        gather([tmp_path / "run"], quiet=True)
    with pytest.raises(ValueError, match="no run"):
        gather([tmp_path], quiet=True)
