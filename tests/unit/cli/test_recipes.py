"""Recipes: a list or a typo is answered without loading what trains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from corral.cli.recipes import read_recipe, recipe_names

HEAVY = ("torch", "numpy", "polars", "pyarrow", "altair")


@pytest.mark.parametrize("words", [["train", "--list"], ["train", "dmo"], ["train", "demo", "--settings"]])
def test_a_list_and_a_typo_load_nothing_heavy(words: list[str]) -> None:
    code = f"""
import sys
from corral.cli.main import main
try:
    main({words})
except SystemExit:
    pass
print("loaded:", [name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "loaded: []" in done.stdout, done.stdout + done.stderr


def test_a_mistyped_name_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match=r"recipe 'dmo': did you mean 'demo'\? Known are .*ml-1m-sasrec"):
        read_recipe("dmo")
    with pytest.raises(ValueError, match=r"recipe 'xyz': known are .*demo"):
        read_recipe("xyz")


def test_by_name_and_by_path(tmp_path: Path) -> None:
    assert "demo" in recipe_names()
    assert read_recipe("demo", ["seed=7"]).seed == 7
    path = tmp_path / "mine.yaml"
    with pytest.raises(ValueError, match=r"mine.yaml: no such file"):
        read_recipe(str(path))
    path.write_text("data: {name: online-retail}\nseed: 3")
    assert read_recipe(str(path)).seed == 3


def test_a_key_given_twice_and_what_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("data: {name: online-retail}\nseed: 3\nseed: 4\n")
    with pytest.raises(ValueError, match=r"mine.yaml, line 3: the key 'seed' stands there twice \(first in line 2\)"):
        read_recipe(str(path))
    with pytest.raises(ValueError, match=r"override .*: the value, line 1: the key 'name' stands there twice"):
        read_recipe("demo", ["data={name: a, name: b}"])
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"mine.yaml: not UTF-8 text"):
        read_recipe(str(path))
