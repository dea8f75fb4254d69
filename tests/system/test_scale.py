"""A run by two workers ends as an ordinary run: the same metrics, a bundle that serves; what cannot is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from corral.cli.main import main
from corral.cli.recipes import read_recipe, recipe_names
from corral.cli.scaled_training import check_scalable
from corral.data.dataset import Dataset
from corral.data.synthetic import markov_world
from corral.settings import load_settings

SCRIPT = Path(__file__).with_name("scaled_runs.py")
RECIPE = """
description: both stages at once on a small world
seed: 3
threads: 1
data: {path: DATA}
split: {rule: time-cut, valid_fraction: 0.15, test_fraction: 0.15, repeats: true}
retriever: {kind: sasrec, size: 8, blocks: 1, dropout: 0.2, max_length: 8}
ranker: {kind: din, field_size: 4, history_length: 6, hidden: [6], dropout: 0.1, evidence: {}}
together: {kind: corr, full_softmax: true, num_codewords: 3, epochs: 2, batch_size: 16, max_per_user: 4}
evaluation: {num_candidates: 10, batch_size: 16, correction: true}
"""
RAR = """
description: clicks with look-alikes by the retriever, trained on each block's past
seed: 3
threads: 1
data: {path: DATA}
split: {rule: time-cut, valid_fraction: 0.15, test_fraction: 0.15, repeats: true}
retriever: {kind: mf, size: 8}
retriever_training: {loss: full-softmax, epochs: 1, batch_size: 64}
ranker: {kind: deepfm, field_size: 4, history_length: 6, hidden: [6], evidence: {}, as_of: {},
  behaviour: {blocks: 3},
  rar: {keys: retriever, pool: recalled, blocks: 3, look_alikes: 3, recall_items: 3, pool_size: 8}}
ranker_training: {loss: clicks, sampled_negatives: 2, epochs: 2, batch_size: 64, metric: auc}
evaluation: {num_candidates: 10, batch_size: 16, serve_by: retriever, correction: true}
index: {exact_up_to: 4}
"""


@pytest.fixture(scope="module", params=[RECIPE, RAR], ids=["corr", "rar"])
def recipe(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path_factory.mktemp("scale")
    Dataset.write(folder / "data", markov_world(61, 16, length=14).interactions)
    path = folder / "small.yaml"
    path.write_text(request.param.replace("DATA", str(folder / "data")))
    return path


@pytest.fixture(scope="module")
def runs(recipe: Path) -> tuple[Path, Path]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(recipe), str(recipe.parent)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines().count("{") == 2  # one result is printed a run, by the first worker
    return recipe.parent / "one", recipe.parent / "two"


def corral(*words: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == code


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def check_alike(two: dict[str, float], one: dict[str, float]) -> None:
    """To rounding, but for the time; an event on the border of two bins of calibration may be counted in either."""
    apart = {name: 0.0 for name in two if name == "seconds" or name.endswith("calibration_error")}
    assert {**two, **apart} == pytest.approx({**one, **apart}, rel=1e-4)
    for name in apart.keys() - {"seconds"}:
        assert two[name] == pytest.approx(one[name], abs=0.01), name


@pytest.mark.slow
def test_the_same_run(runs: tuple[Path, Path]) -> None:
    logs = [sorted(run.glob("*/log.jsonl")) for run in runs]
    assert len(logs[0]) == len(logs[1]) > 0
    for pair in zip(*logs, strict=True):
        lines = [[json.loads(line) for line in log.read_text().splitlines()] for log in pair]
        for one, two in zip(*lines, strict=True):
            check_alike(two, one)
    (one,), (two,) = (sorted((run / "evaluation").rglob("*.json")) for run in runs)
    check_alike(read(two)["metrics"], read(one)["metrics"])
    assert read(two)["protocol"] == read(one)["protocol"]
    assert [read(run / "manifest.json")["workers"] for run in runs] == [1, 2]


@pytest.mark.slow
def test_its_bundle_serves(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    lists = []
    for run in runs:
        corral("recommend", str(run), "--user", "7", "--k", "5", "--json")
        lists.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert len(lists[1]) >= 1
    assert [row["item_id"] for row in lists[1]] == [row["item_id"] for row in lists[0]]
    names = [sorted(str(f.relative_to(run)) for f in (run / "bundle").rglob("*") if f.is_file()) for run in runs]
    assert names[0] == names[1]


@pytest.mark.slow
def test_whose_checkpoints_they_are_is_said(
    runs: tuple[Path, Path], recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corral("train", str(recipe), "--run", str(runs[1]), "--quiet", code=2)
    assert "holds checkpoints of workers; say scale.workers=1" in capsys.readouterr().err


@pytest.mark.slow
def test_a_finished_run_is_judged_by_an_ordinary_process(runs: tuple[Path, Path], recipe: Path) -> None:
    """Another seed is another run; another number of workers is not."""
    corral("train", str(recipe), "seed=4", "--run", str(runs[1]), "--quiet", code=2)
    corral("evaluate", str(runs[1]), "--json")


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("together=null", "retriever={kind: own}"), "retriever.kind=own"),
        (("ranker={kind: own-ctr-model}",), "ranker.kind=own-ctr-model"),
        (("together=null", "ranker_training.sampler=own"), "ranker_training.sampler=own"),
        (("together.sampler=own",), "together.sampler=own"),
        (("continues=runs/earlier",), "continues=runs/earlier"),
    ],
)
def test_what_would_mean_something_else_is_refused_by_name(overrides: tuple[str, ...], named: str) -> None:
    settings = load_settings(RECIPE, "recipe", overrides)
    with pytest.raises(ValueError, match=named):
        check_scalable(settings)


def test_recipes_that_mean_the_same_pass() -> None:
    for overrides in (
        (),
        ("together=null", "retriever_training.loss=sampled-softmax", "retriever_training.sampler=midx"),
        ("together=null", "retriever_training.loss=in-batch", "ranker_training.sampler=top-k"),
        ("together=null", "retriever={kind: popularity}"),
        ("together={kind: icc}",),
        ("together.shared_table=true", "together.sampler=in-batch"),
        ("together.alternating=true",),
        ("ranker.rar={keys: live}", "ranker.batch_norm=true"),
        ("together=null", "ranker_training={loss: clicks, metric: auc}", "ranker.rar={}", "ranker.behaviour={}"),
    ):
        check_scalable(load_settings(RECIPE, "recipe", overrides))


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_runs_on_workers(name: str) -> None:
    check_scalable(read_recipe(name))


def test_the_command_says_so_before_any_worker_starts(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corral("train", str(recipe), "scale.workers=2", "retriever={kind: own}", "--run", str(recipe.parent / "no"), code=2)
    assert "retriever.kind=own" in capsys.readouterr().err
    assert not (recipe.parent / "no").exists()
