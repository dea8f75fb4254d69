"""Runs the code of README.md and of all pages but how-to; and how documents are read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from documents import HOW_TO, OTHERS, ROOT, blocks, run_document


@pytest.mark.parametrize("document", OTHERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_code_of_a_document_runs(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_document(document.read_text("utf-8"), tmp_path)


def test_names_and_files_are_shared_within_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_document(
        "```python\nword = 'kept'\n```\nthen\n"
        "```console\n$ echo one \\\n  two > said.txt\nshown, not run\n```\n"
        "```python\nassert (word, open('said.txt').read()) == ('kept', 'one two\\n')\n```\n"
        "<!-- not run: needs a network -->\n```console\n$ false\n```\n"
        "```yaml\na: 1\n```\n",
        tmp_path,
    )
    assert (tmp_path / "said.txt").exists()


@pytest.mark.parametrize(
    "text",
    [
        "```python\nassert False\n```\n",
        "```console\n$ false | cat\n```\n",
        "```console\nno command\n```\n",
        "```bash\ntrue\n```\n",
        "<!-- not run: -->\n```console\n$ false\n```\n",
    ],
)
def test_a_block_that_fails_fails_the_test(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError):
        run_document(text, tmp_path)


def test_every_fence_is_understood() -> None:
    for document in (*HOW_TO, *OTHERS):
        text = document.read_text("utf-8")
        assert 2 * len(list(blocks(text))) == len(re.findall(r"^```", text, re.MULTILINE)), document
