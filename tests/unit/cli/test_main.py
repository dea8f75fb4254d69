from __future__ import annotations

import subprocess
import sys

import pytest

from corral import __version__
from corral.cli import main as command_line

HEAVY = ("torch", "numpy", "polars", "pyarrow", "pydantic", "faiss", "altair", "tensorboard", "fastapi", "uvicorn")


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def leave_with(words: list[str]) -> int:
    with pytest.raises(SystemExit) as leaving:
        command_line.main(words)
    return int(leaving.value.code or 0)


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make every verb raise ``error``."""

    class Failing:
        def __call__(self, args: list[str], prog_name: str) -> None:
            raise error

    monkeypatch.setattr(command_line.typer.main, "get_command", lambda app: Failing())


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from corral.cli.main import main
try:
    main(["--help"])
except SystemExit:
    pass
print("loaded:", [name for name in {HEAVY} if name in sys.modules])
"""
    result = run(code)
    assert "loaded: []" in result.stdout, result.stdout + result.stderr


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave_with(["--help"]) == 0
    assert "doctor" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["serve", "recommend", "data add"])
def test_help_names_the_extra_that_is_needed(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert leave_with([*verb.split(), "--help"]) == 0
    assert "(corral[scale])" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave_with(["--version"]) == 0
    assert capsys.readouterr().out == f"corral {__version__}\n"


def test_a_mistyped_verb_is_answered_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave_with(["doctr"]) == 2
    assert "doctor" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("events.csv, line 3: time 'x' [sic]"), "Error: events.csv, line 3: time 'x' [sic]\n"),
        (FileNotFoundError(2, "No such file", "a.csv"), "Error: [Errno 2] No such file: 'a.csv'\n"),
        (
            ModuleNotFoundError("No module named 'faiss'", name="faiss"),
            "Error: This needs faiss, which is not installed: pip install 'corral[ann]'\n",
        ),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, error)
    assert leave_with(["train"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", line)


@pytest.mark.parametrize("words", [["--debug", "train"], ["train", "--debug"]])
def test_debug_shows_the_traceback(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        command_line.main(words)


def test_a_fault_of_ours_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, KeyError("not caught"))
    with pytest.raises(KeyError):
        command_line.main(["train"])


def test_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    assert leave_with(["train"]) == 130


def test_interrupt_within_a_verb_is_130() -> None:
    code = """
from corral.cli import main
@main.app.command()
def wait() -> None:
    raise KeyboardInterrupt
main.main(["wait"])
"""
    result = run(code)
    assert result.returncode == 130
    assert "Traceback" not in result.stderr
