"""The documentation as a site: all pages in the navigation, links, anchors and assets found, nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("zensical", reason="pip install 'corral[docs]'")

ROOT = Path(__file__).resolve().parents[2]


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site_builder() -> ModuleType:
    return tool("build_docs")


@pytest.fixture(scope="module")
def site(site_builder: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    built: Path = site_builder.build(tmp_path_factory.mktemp("built"))
    return built


class Page(HTMLParser):
    """What a page loads, where it leads, and which anchors it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.loads.append(values["href"])
        elif "src" in values:
            self.loads.append(values["src"])


def pages_in(entries: list[object]) -> Iterator[str]:
    """The pages of a navigation, sections within sections."""
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            if isinstance(value, list):
                yield from pages_in(value)
            else:
                yield str(value)


def test_every_page_is_in_the_navigation_once(site_builder: ModuleType) -> None:
    project = tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]
    named = sorted(pages_in(project["nav"]))
    files = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")]
    files += site_builder.PROJECT
    assert named == sorted(str(site_builder.page_of(PurePosixPath(file))) for file in files), "see nav in zensical.toml"


def test_links_anchors_and_assets_lead_somewhere_and_nothing_comes_from_elsewhere(site: Path) -> None:
    pages = {path: Page(path.read_text("utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 30
    for path, page in pages.items():
        name = path.relative_to(site)
        for address in page.loads:
            assert not urlsplit(address).netloc, f"{name} loads {address}"
        for address in page.links + page.loads:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{name}: {address} leads nowhere"
            if parts.fragment and target in pages and not parts.fragment.startswith("__"):
                assert unquote(parts.fragment) in pages[target].anchors, f"{name}: no anchor {address}"


def test_style_sheets_load_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.css"):
        text = path.read_text("utf-8")
        assert "@import" not in text
        assert "url(http" not in text.replace('"', "").replace("'", "")
        assert "url(//" not in text.replace('"', "").replace("'", "")


def test_the_source_that_a_paper_names_is_a_page(site: Path) -> None:
    text = (site / "papers" / "corr.html").read_text("utf-8")
    assert "../source/src/corral/corr/distillation.py.html" in text
    assert "distillation_terms" in (site / "source/src/corral/corr/distillation.py.html").read_text("utf-8")


def test_links_in_code_stay_as_they_are(site_builder: ModuleType) -> None:
    found: set[PurePosixPath] = set()
    text = "[a](../../src/x.py#L1) `[b](../../src/y.py)`\n```python\n[c](../z.md)\n```\n[d](https://e.org) [f](#g)\n"
    text += "[`h`, `i`](../../src/x.py)"
    changed = site_builder.with_links_of_the_site(text, PurePosixPath("docs/papers/corr.md"), found)
    assert changed == text.replace("../../src/x.py", "../source/src/x.py.md")
    assert found == {PurePosixPath("src/x.py")}


@pytest.mark.parametrize("link", ["[a](nowhere.md)", "[a](quickstart.md#nowhere)"])
def test_a_broken_link_fails_the_build(link: str, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text(f"# Home\n\n{link}\n", "utf-8")
    (docs / "quickstart.md").write_text("# Quickstart\n", "utf-8")
    (tmp_path / "zensical.toml").write_text('[project]\nsite_name = "x"\nuse_directory_urls = false\n', "utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode != 0


def test_a_link_out_of_the_repository_is_refused(
    site_builder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[a](../../secret.py)", "utf-8")
    monkeypatch.setattr(site_builder, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="no such file"):
        site_builder.stage(tmp_path / "stage")


@pytest.mark.parametrize("paper", ["corr", "rar"])
def test_each_equation_of_a_paper_has_a_function_a_test_and_a_measured_result(paper: str) -> None:
    text = (ROOT / "docs" / "papers" / f"{paper}.md").read_text("utf-8")
    table = text.partition("| formula | function | test | measured |\n")[2].partition("\n\n")[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()[1:]]
    assert len(rows) >= 8
    for formula, function, test, measured in rows:
        assert "../../src/corral/" in function, formula
        assert "../../tests/" in test, formula
        assert "../results/" in measured or measured.strip() == "not measured yet", formula
    linked = re.findall(r"\[`(\w+)(?:\.\w+)?`\]\(\.\./\.\./(src/corral/[\w/]+\.py)\)", table)
    for name, file in linked:
        assert re.search(rf"^(class|def) {name}\b", (ROOT / file).read_text("utf-8"), re.MULTILINE), (
            f"{file}: no {name}"
        )


def test_the_glossary_has_every_noun_protocol_and_letter_of_the_architecture() -> None:
    glossary = (ROOT / "docs" / "about" / "glossary.md").read_text("utf-8")
    text = (
        (ROOT / "ARCHITECTURE.md").read_text("utf-8").partition("## The nouns")[2].partition("## The import order")[0]
    )
    nouns = re.findall(r"`([A-Z]\w+)`", "\n".join(re.findall(r"^(?:\| `.*? \||- `\w+`)", text, re.MULTILINE)))
    letters = re.findall(r"\b([A-Z]) [a-z]+", text.partition("Shape letters")[2].partition("\nRow 0")[0])
    assert {"Dataset", "Scored", "Objective"} <= set(nouns)
    assert {"B", "P", "K"} <= set(letters)
    for noun in nouns:
        assert f"`{noun}`" in glossary, noun
    for letter in letters:
        assert re.search(rf"\| {letter}(?:, \w+)? \|", glossary), letter


def test_each_table_of_results_is_explained() -> None:
    index = (ROOT / "docs" / "results" / "index.md").read_text("utf-8")
    for page in sorted((ROOT / "docs" / "results").glob("*.md")):
        if page.name != "index.md":
            script = f"bench_{page.stem}.py"
            assert f"({page.name})" in index, f"docs/results/index.md says nothing of {page.name}"
            assert f"`{script}`" in index
            assert (ROOT / "benchmarks" / script).exists()


def test_the_picture_is_what_its_script_draws() -> None:
    drawn = tool("make_two_stages_picture")
    assert drawn.PICTURE.read_text("utf-8") == drawn.picture()
