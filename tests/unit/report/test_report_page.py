from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("altair")

from corral.report import charts, page
from corral.report.blocks import Chart, Page, Panel, Paragraph, Part, Row, Table
from corral.report.page import PANELS, render, report_page, write_page
from corral.report.run_report import RunReport

LIBRARY = "window.vegaEmbed = null;"
VOID = {"meta", "link", "br", "img"}


class Outline(HTMLParser):
    """Ids, headings and scripts, and whether every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.levels: list[int] = []
        self.scripts: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if "id" in found:
            self.ids.append(str(found["id"]))
        if re.fullmatch(r"h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag == "script":
            self.scripts.append((str(found.get("type") or ""), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)


def outline(text: str) -> Outline:
    parsed = Outline()
    parsed.feed(text)
    parsed.close()
    assert not parsed.open
    return parsed


@pytest.mark.parametrize("name", ["full", "bare", "untitled"])
def test_all_panels_are_there_and_the_document_is_sound(name: str, request: pytest.FixtureRequest) -> None:
    run: RunReport = request.getfixturevalue(name)
    parsed = outline(render(report_page([run]), LIBRARY))
    assert [name for name in parsed.ids if name in PANELS] == list(PANELS)
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert parsed.levels[:2] == [1, 2]
    assert all(after <= before + 1 for before, after in zip(parsed.levels, parsed.levels[1:], strict=False))
    programs = [text for kind, text in parsed.scripts if not kind]
    assert len(programs) == 2, "scripts stand in the page once"
    specs = [json.loads(text) for kind, text in parsed.scripts if kind == "application/json"]
    assert len(specs) >= 5
    for spec in specs:
        assert spec["width"] == "container"
        assert spec["description"]
        assert "url" not in json.dumps(spec.get("data", {}))


def test_charts_follow_what_there_is(full: RunReport, bare: RunReport, untitled: RunReport) -> None:
    def ids(run: RunReport) -> set[str]:
        found = outline(render(report_page([run]), LIBRARY)).ids
        return {name.removeprefix("chart-") for name in found if name.startswith("chart-")}

    common = {
        "recall-by-k",
        "losses",
        "slices-user",
        "slices-item-popularity",
        "events-over-time",
        "item-popularity",
    }
    learning = {"retriever-loss", "retriever-metrics"}
    assert common <= ids(untitled)
    assert not ids(untitled) & (learning | {"calibration"})
    assert common | learning <= ids(bare)
    assert not ids(bare) & {"ranker-loss", "agreement", "candidates"}
    assert common | learning | {"ranker-loss", "ranker-metrics", "calibration", "agreement", "candidates"} <= ids(full)


def test_words_of_the_data_stay_words(full: RunReport) -> None:
    text = render(report_page([full]), LIBRARY)
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<run>" not in text
    assert "shop <b>" not in text
    assert "</code><script>" not in text
    assert "<made up>" not in text


def test_words_inside_a_chart_cannot_end_its_script() -> None:
    wicked = "</script><script>alert(1)</script><!--"
    spec = charts.bars(
        [{"name": wicked, "value": 1.0, "what": "&"}], "name", "value", "what", label=wicked, value_title="v"
    )
    blocks = [
        Chart("c", wicked, wicked, spec),
        Table(wicked, ("a", wicked), [Row(((wicked, wicked), wicked))]),
    ]
    text = render(Page(wicked, wicked, [Part("", "", [Panel("p", wicked, [Paragraph(wicked), *blocks])])]), LIBRARY)
    assert "<script>alert" not in text
    parsed = outline(text)
    (spec_text,) = [inside for kind, inside in parsed.scripts if kind == "application/json"]
    assert json.loads(spec_text)["description"] == wicked


def test_numbers_that_json_lacks_become_null() -> None:
    spec = charts.lines(
        [{"x": 1, "y": float("nan")}, {"x": 2, "y": float("inf")}],
        "x",
        "y",
        label="l",
        x_title="x",
        y_title="y",
    )
    assert "NaN" not in json.dumps(spec, allow_nan=False)


def test_only_these_scripts_may_run(bare: RunReport) -> None:
    text = render(report_page([bare]), LIBRARY)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.count("sha256-") == 2
    assert "unsafe-eval" not in policy
    assert "default-src &#39;none&#39;" in policy
    with pytest.raises(ValueError, match="</script"):
        render(report_page([bare]), "'</script>'")


def test_a_comparison_has_each_run_under_its_own_ids(full: RunReport, bare: RunReport) -> None:
    parsed = outline(render(report_page([full, bare]), LIBRARY))
    assert "comparison" in parsed.ids
    for place in (1, 2):
        assert [name for name in parsed.ids if name in {f"run-{place}-{panel}" for panel in PANELS}]
    assert len(set(parsed.ids)) == len(parsed.ids)


def test_written_whole_or_not_at_all(bare: RunReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "chart_library", lambda: LIBRARY)
    out = write_page(report_page([bare]), tmp_path / "new" / "page.html")
    first = out.read_text(encoding="utf-8")
    assert first.startswith("<!DOCTYPE html>")
    monkeypatch.setattr(page.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        write_page(report_page([replace(bare, name="other")]), out)
    assert out.read_text(encoding="utf-8") == first
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]


def test_without_altair_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'corral\[report\]'") as raised:
        charts.require_altair()
    assert raised.value.name == "altair"
