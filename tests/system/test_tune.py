"""corral tune on a small world: what it searches, that it goes on, and that it never looks at the test part."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import polars as pl
import pytest
import yaml

import corral.cli.study as corral_study
from corral.cli.main import main
from corral.cli.run_files import read_log
from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.data.only_holder import only_holder
from corral.data.split import Part, time_cut
from corral.data.synthetic import markov_world
from corral.settings import load_settings

RECIPE = """
threads: 1
data: {path: DATA}
split: {valid_fraction: 0.15, test_fraction: 0.15, repeats: true}
retriever: {kind: sasrec, size: 8, blocks: 1, max_length: 8}
retriever_training: {epochs: 2, batch_size: 64, learning_rate: 0.01}
evaluation: {num_candidates: 12}
"""
RANKER = """
ranker: {kind: fm, field_size: 4, history_length: 6}
ranker_training: {epochs: 1, batch_size: 256, num_negatives: 4}
"""
SEARCH = """
retriever_training.learning_rate: {low: 1e-3, high: 1e-1, log: true}
retriever.dropout: [0.0, 0.5]
retriever.size: {low: 4, high: 12}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, one with a ranker, and a search."""
    folder = tmp_path_factory.mktemp("tune")
    Dataset.write(folder / "data", markov_world(60, 16, length=14).interactions)
    recipe = RECIPE.replace("DATA", str(folder / "data"))
    (folder / "small.yaml").write_text(recipe)
    (folder / "both.yaml").write_text(recipe + RANKER)
    (folder / "search.yaml").write_text(SEARCH)
    return folder


def corral(*words: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([str(word) for word in words])
    assert (leaving.value.code or 0) == code


def tune(folder: Path, out: Path, *words: object, code: int = 0) -> dict[str, Any]:
    """What tuning.json says after ``corral tune``."""
    search = () if "--search" in words else ("--search", folder / "search.yaml")
    corral("tune", folder / "small.yaml", *words, *search, "--out", out, "-q", code=code)
    return json.loads((out / "tuning.json").read_text())


def comparable(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials without what depends on the clock."""
    return [{name: value for name, value in trial.items() if name != "seconds"} for trial in found["trials"]]


@pytest.fixture(scope="module")
def tuned(folder: Path) -> Path:
    out = folder / "tuned"
    tune(folder, out, "--trials", 4)
    return out


def test_trials_are_runs_and_the_first_is_the_recipe(folder: Path, tuned: Path) -> None:
    found = json.loads((tuned / "tuning.json").read_text())
    assert [trial["state"] for trial in found["trials"]] == ["complete"] * 4
    assert found["trials"][0]["overrides"] == []
    recipe = (folder / "small.yaml").read_text()
    for trial in found["trials"]:
        place = tuned / "trials" / str(trial["number"])
        written = load_settings((place / "settings.yaml").read_text(), "trial")
        assert written == load_settings(recipe, "recipe", tuple(trial["overrides"]))
        values = [record["ndcg@10"] for record in read_log(place / "retriever")]
        assert trial["value"] == max(values)
        assert list(trial["epochs"].values()) == values
        assert not (place / "evaluation").exists()
    assert all(len(trial["overrides"]) == 3 for trial in found["trials"][1:])
    assert len({str(trial["overrides"]) for trial in found["trials"]}) == 4
    best = max(found["trials"], key=lambda trial: trial["value"])
    assert found["best"] == best["number"]
    assert load_settings((tuned / "best.yaml").read_text(), "best") == load_settings(
        recipe, "recipe", tuple(best["overrides"])
    )
    summary = (tuned / "summary.txt").read_text()
    assert found["command"] in summary
    assert all(f"{trial['value']:.4f}" in summary for trial in found["trials"])
    assert "\x1b" not in summary


def test_no_file_of_a_study_is_a_pickle(tuned: Path) -> None:
    lines = (tuned / "study.jsonl").read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)
    known = {".jsonl", ".json", ".yaml", ".txt", ".safetensors"}
    others = [path for path in tuned.rglob("*") if path.is_file() and path.suffix not in known]
    assert all(path.name.startswith("events.out.tfevents") for path in others)


def test_the_command_judges_the_best_trial_without_training_it_again(tuned: Path) -> None:
    found = json.loads((tuned / "tuning.json").read_text())
    place = tuned / "trials" / str(found["best"])
    before = (place / "retriever" / "checkpoint.safetensors").stat().st_mtime_ns
    corral(*shlex.split(found["command"])[1:], "-q")
    assert (place / "evaluation" / "evaluation.json").is_file()
    assert (place / "retriever" / "checkpoint.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("when", ["between trials", "within a trial", "killed", "out of time"])
def test_an_interrupted_study_goes_on_as_if_it_never_was(
    folder: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    whole, out = json.loads((tuned / "tuning.json").read_text()), tmp_path / "out"
    if when == "between trials":
        tune(folder, out, "--trials", 2)
    elif when == "within a trial":
        report, reports = optuna.trial.Trial.report, iter(range(100))

        def interrupted(trial: optuna.trial.Trial, value: float, step: int) -> None:
            report(trial, value, step)
            if next(reports) == 4:  # the first epoch of the third trial
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(optuna.trial.Trial, "report", interrupted)
            half = tune(folder, out, "--trials", 4, code=130)
        assert [trial["state"] for trial in half["trials"]] == ["complete", "complete", "running"]
        assert half["best"] is not None
    elif when == "killed":
        words = ["tune", folder / "small.yaml", "--search", folder / "search.yaml", "--trials", 4, "--out", out, "-q"]
        child = subprocess.Popen([sys.executable, "-m", "corral.cli.main", *map(str, words)], stdout=subprocess.DEVNULL)
        while not (out / "trials" / "1" / "retriever" / "checkpoint.safetensors").exists() and child.poll() is None:
            time.sleep(0.001)
        child.kill()
        child.wait()
        assert not (out / "trials" / "3").exists()
    else:
        half = tune(folder, out, "--trials", 4, "--minutes", 1e-4)
        assert [trial["state"] for trial in half["trials"]] == ["running"]
        assert half["best"] is None
        assert not (out / "best.yaml").exists()
    assert comparable(tune(folder, out, "--trials", 4)) == comparable(whole)


CLICKS = """
threads: 1
data: {path: DATA}
split: {valid_fraction: 0.15, test_fraction: 0.15, repeats: true}
retriever: {kind: mf, size: 4}
retriever_training: {epochs: 1, batch_size: 64}
ranker: {kind: dcnv2, field_size: 4, hidden: [4], history_length: 4, as_of: {}, evidence: {}}
ranker_training: {loss: clicks, label_at_least: 1, epochs: 2, batch_size: 64}
"""


@pytest.mark.parametrize(("recipe", "trials"), [(RECIPE + RANKER, 2), (CLICKS, 3)], ids=["order", "clicks"])
def test_the_test_part_is_never_read(recipe: str, trials: int, tmp_path: Path) -> None:
    """Other items and labels in the test events, and the whole study is the same, number for number."""
    events = markov_world(60, 16, length=14).interactions.events
    label = (np.random.default_rng(0).random(len(events)) < 0.5).astype(np.float32)
    events = events.with_columns(pl.Series("value", label))
    dataset = Dataset.write(tmp_path / "data", Interactions.of(events, source="as it is"))
    cut = int(dataset.events.time[time_cut(dataset, 0.15, 0.15).part == Part.TEST].min())
    late = pl.col("timestamp") >= cut
    other = events.with_columns(
        pl.when(late).then((pl.col("item_id") + 5) % 16).otherwise(pl.col("item_id")).alias("item_id"),
        pl.when(late).then(1 - pl.col("value")).otherwise(pl.col("value")).alias("value"),
    )
    assert other.filter(late)["item_id"].n_unique() > 5
    Dataset.write(tmp_path / "other", Interactions.of(other, source="corrupted"))
    studies = []
    for data in ("data", "other"):
        file = tmp_path / f"{data}.yaml"
        file.write_text(recipe.replace("DATA", str(tmp_path / data)))
        corral("tune", file, "--trials", trials, "--out", tmp_path / f"tuned-{data}", "-q")
        studies.append(json.loads((tmp_path / f"tuned-{data}" / "tuning.json").read_text()))
    assert comparable(studies[0]) == comparable(studies[1])
    assert studies[0]["data_hash"] != studies[1]["data_hash"]


def test_stage_one_is_trained_once_where_the_search_leaves_it_alone(folder: Path, tmp_path: Path) -> None:
    search = tmp_path / "search.yaml"
    for name, same in (("ranker.embedding_dropout", True), ("retriever.dropout", False)):
        search.write_text(f"{name}: [0.1, 0.3]\n")
        out = tmp_path / name
        corral("tune", folder / "both.yaml", "--search", search, "--trials", 2, "--out", out, "-q")
        logs = [(out / "trials" / number / "retriever" / "log.jsonl").read_text() for number in ("0", "1")]
        assert (logs[0] == logs[1]) is same  # the seconds in it too


def test_bad_trials_end_early_and_failed_ones_are_noted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corral_study, "STARTUP", 2)
    search = tmp_path / "search.yaml"
    search.write_text("retriever_training.learning_rate: [1e-9, 0.03, 1e+30]\nretriever.dropout: {low: 0, high: 0.9}\n")
    found = tune(folder, tmp_path / "out", "retriever_training.epochs=4", "--search", search, "--trials", 12)
    by_rate: dict[str, set[str]] = {}
    for trial in found["trials"][3:]:  # once there is something to compare with
        by_rate.setdefault(trial["overrides"][0].partition("=")[2], set()).add(trial["state"])
    assert "complete" in by_rate["0.03"]
    assert by_rate["1e-09"] == {"pruned"}
    assert by_rate["1e+30"] == {"failed"}
    pruned = next(trial for trial in found["trials"] if trial["state"] == "pruned")
    assert len(pruned["epochs"]) < 4
    assert "the loss is not finite" in next(trial for trial in found["trials"] if trial["state"] == "failed")["error"]
    assert found["trials"][found["best"]]["state"] == "complete"


def test_a_trial_that_had_ended_is_not_pruned_afterwards(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted between the end of its training and the study's note of it, whatever it is worth."""
    monkeypatch.setattr(corral_study, "STARTUP", 2)
    search, train_stages = tmp_path / "search.yaml", corral_study.train_stages
    search.write_text("retriever_training.learning_rate: [1e-6, 1e-7]\nretriever.dropout: {low: 0, high: 0.9}\n")
    words = ("retriever_training.epochs=1", "--search", search, "--trials", 5)

    def interrupted(experiment: Any) -> Any:
        """When it trains anything: not where a finished training is loaded."""
        trained = not (experiment.directory / "retriever" / "best.safetensors").exists()
        found = train_stages(experiment)
        if trained:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(corral_study, "train_stages", interrupted)
    for _ in range(5):
        tune(folder, tmp_path / "out", *words, code=130)
    found = tune(folder, tmp_path / "out", *words)
    assert [trial["state"] for trial in found["trials"]] == ["complete"] * 5
    assert min(trial["value"] for trial in found["trials"]) < found["trials"][0]["value"]


def test_a_study_with_half_a_last_line_goes_on(
    folder: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine that was unplugged; what is damaged elsewhere is named."""
    out = tmp_path / "out"
    shutil.copytree(tuned, out)
    journal = out / "study.jsonl"
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    for torn in (whole + b'{"op_code":4,"wor', b"".join(lines[:-1]) + lines[-1][:-9], whole + bytes(40)):
        journal.write_bytes(torn)
        assert [trial["state"] for trial in tune(folder, out, "--trials", 4)["trials"]] == ["complete"] * 4
        assert all(json.loads(line) for line in journal.read_text().splitlines())
    for damage in (b'{"op_code":\n', b"\xff\xfe\n"):
        journal.write_bytes(damage + whole)
        corral("tune", folder / "small.yaml", "--search", folder / "search.yaml", "--out", out, "-q", code=2)
        assert f"{journal}: damaged" in capsys.readouterr().err


def test_one_process_at_a_time_works_on_a_study(
    folder: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second would train the first one's trial, and note it as failed."""
    out = tmp_path / "out"
    shutil.copytree(tuned, out)
    with only_holder(out / "study.jsonl", "held"):
        corral("tune", folder / "small.yaml", "--search", folder / "search.yaml", "--out", out, "-q", code=2)
    assert f"{out}: another corral tune works on this study" in capsys.readouterr().err


def test_another_recipe_search_or_data_is_another_study(
    folder: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tune(folder, tuned, "--trials", 4, "seed=1", code=2)
    assert "holds a study of other settings; choose another directory: --out" in capsys.readouterr().err
    other = tmp_path / "search.yaml"
    other.write_text("retriever.dropout: [0.0]\n")
    tune(folder, tuned, "--search", other, code=2)
    assert "holds a study of other search" in capsys.readouterr().err


def test_the_search_shown_is_a_file_to_search_by(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corral("tune", folder / "both.yaml", "--show-search")
    shown = capsys.readouterr().out
    (tmp_path / "shown.yaml").write_text(shown)
    corral("tune", folder / "both.yaml", "--search", tmp_path / "shown.yaml", "--show-search")
    assert capsys.readouterr().out == shown
    assert {"retriever.dropout", "ranker_training.learning_rate"} <= set(yaml.safe_load(shown))
