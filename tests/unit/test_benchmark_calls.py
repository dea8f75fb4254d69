"""A call that measures a part of a benchmark keeps the rest of its page; a quick look is not published."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
Load = Callable[[str], ModuleType]


def forget_scripts() -> None:
    """Scripts bind names of ``results`` when they are imported: each test imports its own."""
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "").parent == BENCHMARKS:
            del sys.modules[name]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Imports a script whose checkout is a temporary folder that holds its page as published."""
    forget_scripts()
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(importlib.import_module("results"), "ROOT", tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)

    def script(name: str) -> ModuleType:
        (tmp_path / "docs" / "results").mkdir(parents=True)
        for end in ("json", "md"):
            shutil.copy(ROOT / "docs" / "results" / f"{name}.{end}", tmp_path / "docs" / "results")
        return importlib.import_module(f"bench_{name}")

    yield script
    forget_scripts()


def call(monkeypatch: pytest.MonkeyPatch, bench: ModuleType, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", [f"{bench.__name__}.py", *words])
    bench.main()


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "docs" / "results" / f"{name}.json").read_text())["rows"]
    return rows


class NothingMeasured:
    """A training of bench_continue of which no run is finished."""

    def __init__(self, steps: object, seed: int) -> None:
        self.rows: list[dict[str, Any]] = []

    def run(self, *rest: object) -> None:
        pass


# Of each script: a call that measures a part, and what takes the place of measuring, from the row that is made again.
PARTIAL: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "ranking": (("--seeds", "0", "--systems", "lr"), lambda row: {"measure": lambda *_: row["metrics"]}),
    "training": (
        ("--datasets", "tables", "--sizes", "10000"),
        lambda row: {"table_step": lambda *_: row["metrics"]},
    ),
    "rar_world": (("--systems", "bare", "--seeds", "0"), lambda row: {"run": lambda *_: row["metrics"]}),
    "evaluation": (
        ("--seeds", "0"),
        lambda row: {"measure": lambda *_: {row["system"]: row["metrics"]}},
    ),
    "estimator": (("--parts", "toy"), lambda row: {"toy_part": lambda _: [row]}),
    "cooperation": (("--parts", "steps"), lambda row: {"steps_part": lambda *_, wanted: [row]}),
    "rar_cost": (
        ("--parts", "rar", "profile"),
        lambda row: {"rar_part": lambda *_: [row], "profile_part": lambda _: ["", "## The floor"]},
    ),
    "serving": (
        ("--worlds", "ml-1m", "--systems", "both", "--seeds", "0"),
        lambda row: {"make_world": lambda *_: None, "measure": lambda *_: [row]},
    ),
    "selection": (
        ("--again", "--parts", "learned"),
        lambda row: {
            "learned_part": lambda *_: [row],
            "bandwidth": lambda: 1e9,
            "import_faiss": lambda: SimpleNamespace(omp_set_num_threads=lambda threads: None),
        },
    ),
    "scale_training": (
        ("--again", "--workers", "1"),
        lambda row: {"cell": lambda *_: row, "own_network": lambda: False},
    ),
    "data": (
        ("--again", "--datasets", "dense", "--systems", "polars-read", "--work", "work"),
        lambda row: {"in_subprocess": lambda *_: row["metrics"]},
    ),
}


@pytest.mark.parametrize("name", PARTIAL)
def test_a_call_of_a_part_keeps_the_other_rows(
    name: str, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, before = load(name), rows_of(ROOT, name)
    words, stubs = PARTIAL[name]
    again = {**before[0], "metrics": {metric: 2 * value for metric, value in before[0]["metrics"].items()}}
    for function, stub in stubs(again).items():
        monkeypatch.setattr(bench, function, stub)
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, bench, *words)
    after = rows_of(tmp_path, name)
    assert len(after) == len(before)
    assert again["metrics"] in [row["metrics"] for row in after]
    # A stub gives its row for all that the call asks for: a few rows have its numbers, the others their own.
    kept = [row for row in before if row in after]
    assert len(before) // 2 <= len(kept) < len(before)
    page = (tmp_path / "docs" / "results" / f"{name}.md").read_text()
    assert [row for row in after if row["dataset"] not in page and row["system"] not in page] == []
    assert f"Made by `python benchmarks/bench_{name}.py` at" in page


def test_nothing_finished_takes_nothing_away(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, before = load("continue"), rows_of(ROOT, "continue")
    monkeypatch.setattr(bench, "Measured", NothingMeasured)
    monkeypatch.setattr(bench.Steps, "of", lambda *rest: SimpleNamespace(count=0))
    monkeypatch.delenv("CORRAL_DATA", raising=False)
    call(monkeypatch, bench, "--finished")
    after = rows_of(tmp_path, "continue")
    assert len(after) == len(before)
    assert all(row in after for row in before)
    page = (tmp_path / "docs" / "results" / "continue.md").read_text()
    assert "| ml-1m, step 4 | continued | 1 |" in page
    assert "Steps measured: ml-1m 4, online-retail 3." in page


def test_a_step_is_the_same_weeks_in_every_call(load: Load, tmp_path: Path) -> None:
    steps = load("continue").Steps
    three = steps.of("online-retail", 3, tmp_path)
    assert three.count == 3
    assert steps.of("online-retail", 1, tmp_path).edges == three.edges[:4]
    assert steps.of("online-retail", 9, tmp_path) == three, "the data end there"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ranking", ("--steps", "1")),
        ("training", ("--steps", "1")),
        ("evaluation", ("--threads", "1")),
        ("estimator", ("--draws", "5")),
        ("cooperation", ("--steps", "1")),
        ("rar_cost", ("--no-memory",)),
        ("scale_training", ("--quick",)),
        ("selection", ("--quick",)),
    ],
)
def test_a_quick_look_is_not_published(
    name: str,
    words: tuple[str, ...],
    load: Load,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bench = load(name)
    with pytest.raises(SystemExit):
        call(monkeypatch, bench, *words)
    assert "with --folder their page is written elsewhere" in capsys.readouterr().err


def test_a_quick_look_at_serving_goes_to_its_folder(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, (row, *_) = load("serving"), rows_of(ROOT, "serving")
    monkeypatch.setattr(bench, "make_world", lambda *rest: None)
    monkeypatch.setattr(bench, "measure", lambda *rest: [row])
    for words in (("--worlds", "small"), ("--requests", "40")):
        call(monkeypatch, bench, *words, "--folder", str(tmp_path / words[0]))
        assert json.loads((tmp_path / words[0] / "serving.json").read_text())["rows"] == [row]
    assert rows_of(tmp_path, "serving") == rows_of(ROOT, "serving")


def test_a_profile_that_only_its_page_holds_is_not_lost(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench, (row, *_) = load("rar_cost"), rows_of(ROOT, "rar_cost")
    file, page = (tmp_path / "docs" / "results" / f"rar_cost.{end}" for end in ("json", "md"))
    known = json.loads(file.read_text())
    known["protocol"].pop("profile", None)
    file.write_text(json.dumps(known))
    monkeypatch.setattr(bench, "rar_part", lambda *rest: [row])
    with pytest.raises(SystemExit):
        call(monkeypatch, bench, "--parts", "rar")
    assert "measure it too" in capsys.readouterr().err
    known["protocol"]["profile"] = ["", "## The floor", "some lines"]
    file.write_text(json.dumps(known))
    call(monkeypatch, bench, "--parts", "rar")
    assert page.read_text().endswith("## The floor\nsome lines\n")


def test_a_check_that_fails_says_why(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A peer's failure is a row without metrics; the checks after it are made all the same."""
    bench, quick = load("peers"), importlib.import_module("quick")
    monkeypatch.setenv("CORRAL_DATA", str(tmp_path))
    (tmp_path / "ml-100k").mkdir()
    monkeypatch.setattr(bench, "run", lambda *rest: {"metrics": {}, "failed": "corral: no such package"})
    monkeypatch.setattr(quick, "run_smallest", lambda name, arguments: print(f"{name}: runs") or True)
    with pytest.raises(SystemExit) as leaving:
        quick.main(["peers", "ranking", "--results", str(tmp_path / "docs" / "results")])
    assert leaving.value.code == 1
    shown = capsys.readouterr().out
    assert "peers: FAILS, RuntimeError: corral: no such package" in shown
    assert "ranking: runs" in shown
