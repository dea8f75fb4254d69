"""Rows of benchmarks say what made them; rows of before still make a page."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "results.py"


@pytest.fixture(scope="module")
def results() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_row_says_what_made_it(results: ModuleType) -> None:
    row = results.result_row("ml-1m", "mf", 1, {"ndcg@10": 0.5}, data_hash="abc", protocol={"threads": 1})
    assert row["commit"] == results.commit()
    assert {"python", "torch", "numpy"} <= set(row["versions"])
    assert (row["data_hash"], row["protocol"]) == ("abc", {"threads": 1})
    assert json.loads(json.dumps(row)) == row
    assert "protocol" not in results.result_row("made up", "mf", 1, {})


def test_rows_of_before_make_a_page(results: ModuleType, tmp_path: Path) -> None:
    old = {"dataset": "ml-1m", "system": "mf", "seed": 0, "metrics": {"ndcg@10": 0.25}}
    new = results.result_row("ml-1m", "mf", 1, {"ndcg@10": 0.75}, data_hash="abc") | {"commit": "1234567"}
    results.write_results("speed", [old, new], {}, results.table([old, new], ["ndcg@10"]), tmp_path)
    page = (tmp_path / "speed.md").read_text()
    assert "| ml-1m | mf | 2 | 0.5000 ± 0.3536 |" in page
    assert "Rows were made at: unknown, 1234567." in page
    assert json.loads((tmp_path / "speed.json").read_text())["rows"] == [old, new]


def test_rows_of_this_commit_need_no_word(results: ModuleType, tmp_path: Path) -> None:
    row = results.result_row("ml-1m", "mf", 1, {"ndcg@10": 0.75})
    results.write_results("speed", [row], {}, [], tmp_path)
    assert "Rows were made at" not in (tmp_path / "speed.md").read_text()


def test_a_page_without_rows_is_not_written(results: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="speed: nothing was measured"):
        results.write_results("speed", [], {}, [], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cell_of_fewer_values_than_rows_says_so(results: ModuleType) -> None:
    values: tuple[dict[str, float], ...] = ({"auc": 0.5, "ndcg@10": 0.25}, {"auc": 0.5}, {"auc": 0.5, "ndcg@10": 0.75})
    rows = [results.result_row("ml-1m", "mf", seed, metrics) for seed, metrics in enumerate(values)]
    line = results.table(rows, ["auc", "ndcg@10", "mrr@10"])[-1]
    assert line == "| ml-1m | mf | 3 | 0.5000 ± 0.0000 | 0.5000 ± 0.3536 (2) | - |"


def test_the_readme_has_a_place_for_each_table_that_benchmarks_put_there() -> None:
    readme = (FILE.parents[1] / "README.md").read_text("utf-8")
    scripts = [path.read_text("utf-8") for path in FILE.parent.glob("bench_*.py")]
    called = {name for text in scripts for name in re.findall(r'fill_readme\("(\w+)"', text)}
    assert called
    for name in called:
        assert f"<!-- results: {name} -->\n" in readme
        assert f"\n<!-- /results: {name} -->" in readme
