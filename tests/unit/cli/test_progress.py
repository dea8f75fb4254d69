from __future__ import annotations

import io
import sys

import pytest

from corral.cli.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("terminal", "quiet"), [(False, False), (True, True)])
def test_silent_where_nobody_watches(terminal: bool, quiet: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress("Training", total=2, quiet=quiet) as advance:
        advance()
        advance(1, note="loss 0.5")
    assert stream.getvalue() == ""


def test_shows_title_count_and_note(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with progress("Training", total=3) as advance:
        advance(3, note="loss 0.5")
    assert all(part in stream.getvalue() for part in ("Training", "3/3", "loss 0.5"))


def test_an_error_passes_through() -> None:
    with pytest.raises(ValueError, match="inside"), progress("Training", total=3):
        raise ValueError("inside")
