"""Runs the notebooks of examples/ without a kernel: cells in order, and what each cell's last line would show."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def cells(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["cells"]
    return found


def show(value: object) -> None:
    """As a notebook does: the richest form that the object has."""
    for name in ("_repr_mimebundle_", "_repr_html_", "__repr__"):
        if hasattr(value, name):
            assert getattr(value, name)() is not None, type(value)
            return


def run_cell(source: str, names: dict[str, Any], where: str) -> None:
    tree = ast.parse(source, where)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, where, "exec"), names)
    if last is not None:
        shown = eval(compile(ast.Expression(last.value), where, "eval"), names)
        if shown is not None:
            show(shown)


def run_notebook(path: Path) -> None:
    names = ModuleType("notebook").__dict__
    for number, cell in enumerate(cells(path), 1):
        if cell["cell_type"] == "code":
            run_cell("".join(cell["source"]), names, f"{path.name}, cell {number}")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("altair")
    monkeypatch.chdir(tmp_path)
    run_notebook(path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_outputs_are_stripped(path: Path) -> None:
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    assert code
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)


def test_there_are_some() -> None:
    assert len(NOTEBOOKS) >= 4


def test_a_cell_that_fails_fails_the_test(tmp_path: Path) -> None:
    path = tmp_path / "wrong.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": ["x = 1\n", "assert x == 2"]}]}), "utf-8")
    with pytest.raises(AssertionError):
        run_notebook(path)
