"""Runs the code of the how-to pages: half of all there is, in a file of its own so that two workers share it."""

from __future__ import annotations

from pathlib import Path

import pytest
from documents import HOW_TO, ROOT, run_document


@pytest.mark.parametrize("document", HOW_TO, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_code_of_a_how_to_page_runs(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_document(document.read_text("utf-8"), tmp_path)
