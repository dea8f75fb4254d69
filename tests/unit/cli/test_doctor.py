from __future__ import annotations

import json
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from corral.cli import examination
from corral.cli import main as command_line
from corral.cli.examination import CORE, EXTRAS, Finding, State, examine


def finding(name: str, folder: Path) -> Finding:
    return next(one for one in examine(folder) if one.name == name)


def leave_with(words: list[str]) -> int:
    with pytest.raises(SystemExit) as leaving:
        command_line.main(words)
    return int(leaving.value.code or 0)


def test_a_working_installation_is_healthy(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert leave_with(["doctor", "--run-dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "Everything needed works." in shown
    assert all(name in shown for name in (*CORE, *EXTRAS, "python", "torch threads", "memory", "CORRAL_DATA"))


def test_json_says_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert leave_with(["doctor", "--json", "--run-dir", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] is True
    by_name = {one["name"]: one for one in report["findings"]}
    assert by_name["numpy"] == {
        "section": "versions",
        "name": "numpy",
        "value": metadata.version("numpy"),
        "state": "ok",
        "mend": "",
    }


def test_a_library_that_does_not_import_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(CORE, "polars", "no_such_library")
    assert leave_with(["doctor", "--run-dir", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "No module named 'no_such_library'" in shown
    assert "1 broken." in shown


def test_a_library_below_the_lower_bound_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(examination, "_lower_bounds", lambda: {"numpy": "99.10"})
    found = finding("numpy", tmp_path)
    assert found.state is State.BROKEN
    assert found.mend == "pip install 'numpy>=99.10'"


def test_a_missing_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(EXTRAS, "ann", {"faiss-cpu": "no_such_library"})
    found = finding("ann", tmp_path)
    assert (found.state, found.mend) == (State.MISSING, "pip install 'corral[ann]'")


@pytest.mark.parametrize("variable", ["OPENBLAS_CORETYPE", "CORRAL_DATA"])
def test_a_harmful_variable_is_a_warning(variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "nowhere"))
    found = finding(variable, tmp_path)
    assert found.state is State.WARNING
    assert variable in found.mend


def test_data_folders_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ml-1m").mkdir()
    monkeypatch.setenv("CORRAL_DATA", str(tmp_path))
    assert finding("CORRAL_DATA", tmp_path).value.endswith(": ml-1m")


def test_a_run_folder_that_cannot_be_written_is_broken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert finding("runs", tmp_path / "file").state is State.BROKEN


def test_a_run_folder_is_examined_without_being_made(tmp_path: Path) -> None:
    assert finding("runs", tmp_path / "a" / "b").state is State.OK
    assert list(tmp_path.iterdir()) == []


def test_every_extra_for_users_is_examined() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text("utf-8"))["project"]
    names = {extra: _names(project["optional-dependencies"][extra]) for extra in EXTRAS}
    assert set(project["optional-dependencies"]) - {"dev", "docs", "bench", "crosscheck"} == set(EXTRAS)
    assert names == {extra: set(parts) for extra, parts in EXTRAS.items()}
    assert _names(project["dependencies"]) == set(CORE)


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[>]", requirement)[0] for requirement in requirements}
