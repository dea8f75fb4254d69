"""corral bench: every published table has its script and its quick check, and the check can fail."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import corral
from corral.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
TABLES = sorted(path.stem for path in RESULTS.glob("*.json") if not path.stem.endswith("_tuning"))


def leave_with(*words: str) -> int:
    with pytest.raises(SystemExit) as leaving:
        main(["bench", *words])
    return int(leaving.value.code or 0)


def quick(*words: str) -> subprocess.CompletedProcess[str]:
    script = ROOT / "benchmarks" / "quick.py"
    return subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, check=False)


def test_every_table_is_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert leave_with("--list") == 0
    shown = capsys.readouterr().out
    assert TABLES
    assert not [name for name in TABLES if f"{name}.md, {name}.json" not in shown]


def test_every_table_has_a_quick_check() -> None:
    assert [name for name in TABLES if name not in quick("--help").stdout] == []


def test_a_script_is_run_with_its_arguments(capfd: pytest.CaptureFixture[str]) -> None:
    assert leave_with("rar_world", "--args", "--help") == 0
    assert "--systems" in capfd.readouterr().out
    assert leave_with("rar_world", "--args", "--no-such-option") == 2


def test_what_cannot_be_made_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert leave_with("rra") == 2
    assert "did you mean 'rar'?" in capsys.readouterr().err
    monkeypatch.setattr(corral, "__file__", str(tmp_path / "lib" / "site-packages" / "corral" / "__init__.py"))
    assert leave_with("--list") == 2
    assert "corral bench needs a checkout" in capsys.readouterr().err


def test_a_published_number_that_is_not_what_the_program_computes_is_told(tmp_path: Path) -> None:
    agreed = quick("estimator")
    assert (agreed.returncode, agreed.stdout.count(": agrees")) == (0, 3), agreed.stderr
    published = json.loads((RESULTS / "estimator.json").read_text())
    for row in (row for row in published["rows"] if "estimate" in row["metrics"]):
        row["metrics"]["estimate"] += 0.002
    (tmp_path / "estimator.json").write_text(json.dumps(published))
    told = quick("estimator", "--results", str(tmp_path))
    assert (told.returncode, told.stdout.count(": agrees")) == (1, 2)
    assert "DIFFERS by -0.0020" in told.stdout


def test_a_check_that_cannot_be_made_does_not_end_the_others(tmp_path: Path) -> None:
    shutil.copy(RESULTS / "funnel.json", tmp_path)
    (tmp_path / "rar_world.json").write_text(json.dumps({"rows": []}))
    told = quick("rar_world", "funnel", "--results", str(tmp_path))
    assert (told.returncode, told.stdout.count(": agrees")) == (1, 2)
    assert "rar_world: FAILS, ValueError: rar_world.json has no row ('taste-world', 'bare', 0)" in told.stdout


def test_what_needs_data_that_are_not_there_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CORRAL_DATA", str(tmp_path))
    skipped = quick("corr", "rar")
    assert skipped.returncode == 0, skipped.stderr
    assert "rar: skipped, ml-100k is not under CORRAL_DATA" in skipped.stdout


@pytest.mark.slow
def test_all_of_it() -> None:
    done = quick()
    assert done.returncode == 0, done.stdout + done.stderr
    assert not [name for name in TABLES if f"{name}: " not in done.stdout]
