"""corral leakage: what it takes, what it says, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from corral.cli.experiment import Experiment
from corral.cli.leakage_inputs import input_columns, row_inputs, table_inputs
from corral.cli.main import main
from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.data.split import Part, time_cut
from corral.data.synthetic import checkerboard_world
from corral.settings import load_settings

CHECKS = ["the future", "the row itself", "the label in an input", "overlap of the parts", "the split"]
CHECKED = ["co-visitation", "linear item weights", "as-of statistics"]


def ask(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, answer and errors."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        main(["leakage", *map(str, words), "-q"])
    out, err = capsys.readouterr()
    return int(leaving.value.code or 0), out, err


def found(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any]]:
    code, out, err = ask(capsys, *words, "--altered", 4, "--json")
    assert code in (0, 1), err
    return code, json.loads(out)


def verdicts(answer: dict[str, Any], check: str) -> dict[str, str]:
    return {one["subject"]: one["verdict"] for one in answer["findings"] if one["check"] == check}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``clean``: values and features; ``doubled``: each user's last event twice; ``shown``: a feature says it all."""
    root = tmp_path_factory.mktemp("leakage")
    made = checkerboard_world(60, 40, length=16, seed=3).interactions
    events = made.events.unique(["user_id", "item_id", "timestamp"], maintain_order=True)
    random = np.random.default_rng(5)
    events = events.with_columns(pl.Series("value", random.integers(1, 6, len(events)), dtype=pl.Float32))
    clean = Interactions.of(
        events, user_features=made.user_features, item_features=made.item_features, source="made up"
    )
    Dataset.write(root / "clean", clean)
    last = events.group_by("user_id").agg(pl.all().sort_by("timestamp").last()).select(events.columns)
    Dataset.write(root / "doubled", Interactions.of(pl.concat([events, last]), source="made up"))
    shown = events.select("user_id", pl.col("item_id") + 1000, "timestamp")
    sold = pl.DataFrame({"item_id": [*range(40), *range(1000, 1040)]})
    sold = sold.with_columns(sold=pl.when(pl.col("item_id") < 1000).then(pl.lit("sold")).otherwise(pl.lit("in stock")))
    offers = Interactions.of(
        events.drop("value"), impressions=shown, item_features=sold.cast({"sold": pl.String}), source="made up"
    )
    Dataset.write(root / "shown", offers)
    return root


def test_clean_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = found(capsys, folder / "clean")
    assert (code, answer["leaks"]) == (0, 0)
    assert list(dict.fromkeys(one["check"] for one in answer["findings"])) == CHECKS
    inputs = ["history", *CHECKED]
    assert list(verdicts(answer, "the future"))[: len(inputs)] == inputs
    assert list(verdicts(answer, "the row itself")) == inputs
    assert verdicts(answer, "the label in an input") == {"all columns": "not checked"}
    assert answer["split"] == "time-cut"


def test_labels_split_and_settings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--label-at-least", 4, "--split", "random", "split.seed=3", "ranker_training.sampled_negatives=2")
    code, answer = found(capsys, folder / "clean", *words)
    assert (code, answer["split"]) == (0, "random")
    groups = verdicts(answer, "the label in an input")
    assert groups == dict.fromkeys(["user features", "item features", *CHECKED], "clean")
    assert verdicts(answer, "the future")["sampled negatives"] == "clean"
    assert verdicts(answer, "the split")["rule random"] == "told"


def test_an_event_in_two_parts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = found(capsys, folder / "doubled", "--split", "leave-last-two-out")
    assert (code, answer["leaks"]) == (1, 1)
    assert verdicts(answer, "overlap of the parts")["identical rows"] == "leak"
    assert found(capsys, folder / "doubled")[0] == 0


def test_a_feature_that_equals_the_label(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = found(capsys, folder / "shown")
    assert code == 1
    assert verdicts(answer, "the label in an input")["item features: sold"] == "leak"
    assert "item features" not in verdicts(answer, "the label in an input"), "there is no other column"


def test_as_a_table(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = ask(capsys, folder / "doubled", "--split", "leave-last-two-out", "--altered", 2)
    assert code == 1
    for words in ("check", "verdict", "figure", "what to do", *CHECKS, "drop duplicates", "1 found"):
        assert words in out
    code, out, _ = ask(capsys, "clean", "--root", folder, "--altered", 2, "--events", 1000)
    assert code == 0
    assert "No leak found" in out


def test_a_run_answers_by_its_own_settings(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = f"""
data: {{path: {folder / "clean"}}}
split: {{rule: random, seed: 4}}
ranker: {{as_of: {{recent: 3}}}}
ranker_training: {{loss: clicks, label_at_least: 3}}
"""
    run = tmp_path / "run"
    Experiment.start(load_settings(recipe, "test"), run, quiet=True)
    code, answer = found(capsys, run)
    assert code == 0
    assert answer["split"] == "random"
    assert list(verdicts(answer, "the row itself")) == ["history", "as-of statistics"]
    code, _, err = ask(capsys, run, "--split", "time-cut")
    assert code == 2
    assert "is a run" in err


@pytest.mark.parametrize(
    ("rar", "row", "future"),
    [
        ("blocks: 3", "clean", "clean"),
        ("blocks: 3, as_of_event: true", "clean", "clean"),
        ("rule: folds", "told", "clean"),
        ("rule: folds, as_of_event: true", "clean", "clean"),
        ("rule: static, as_of_event: true", "told", "clean"),
        ("rule: static", "told", "clean"),
        ("keys: live", None, "not checked"),
    ],
)
def test_the_neighbours_of_a_run(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, rar: str, row: str | None, future: str
) -> None:
    recipe = f"""
data: {{path: {folder / "clean"}}}
retriever: {{kind: mf, size: 4}}
ranker: {{kind: deepfm, rar: {{{rar}, key_size: 4, look_alikes: 5, recall_items: 5, selector: cosine}}}}
ranker_training: {{loss: clicks, label_at_least: 3}}
"""
    Experiment.start(load_settings(recipe, "test"), tmp_path / "run", quiet=True)
    code, answer = found(capsys, tmp_path / "run")
    name = "look-alikes and recall items"
    assert verdicts(answer, "the future")[name] == future
    assert verdicts(answer, "the row itself").get(name) == row
    assert code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing-of-this-name",), "known are"),
        (("clean", "--label-at-least", "3", "split.ruel=random"), "did you mean 'rule'"),
        (("shown", "--label-at-least", "3"), "no value column"),
    ],
)
def test_what_is_refused(folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str) -> None:
    code, _, err = ask(capsys, *words, "--root", folder)
    assert code == 2
    assert said in err


def test_an_empty_directory_is_neither_run_nor_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = ask(capsys, tmp_path)
    assert code == 2
    assert "neither a run nor a Dataset" in err


def test_every_column_of_the_inputs_has_a_name(folder: Path) -> None:
    recipe = f"""
data: {{path: {folder / "clean"}}}
ranker:
  {{evidence: {{recent: 3}}, linear: {{recent: 2, late: false}}, as_of: {{}}, behaviour: {{}}, similar_rows: {{}}}}
ranker_training: {{loss: clicks, label_at_least: 3}}
"""
    dataset = Dataset.open(folder / "clean")
    experiment = Experiment(load_settings(recipe, "test"), folder, dataset, time_cut(dataset), quiet=True)
    train, test = experiment.examples(Part.TRAIN), experiment.examples(Part.TEST)
    columns = input_columns(experiment, train, test, row_inputs(experiment))
    assert list(columns) == ["user features", "item features", *CHECKED, "look-alikes' behaviour", "similar rows"]
    assert [one.name for one in columns["item features"]] == ["shelf", "tags", "price"]
    assert len(columns["co-visitation"]) == 11
    assert columns["co-visitation"][2].name == "after the latest item but 0"
    assert [one.name for one in columns["linear item weights"][:2]] == [
        "log weight of the latest item but 1",
        "log weight of the latest item but 0",
    ]
    assert experiment.inputs is not None
    assert [one.name for one in columns["as-of statistics"]] == list(
        experiment.inputs.evidence["as_of"].statistics.names
    )
    for group in columns.values():
        for one in group:
            assert (len(one.train), len(one.test)) == (len(train), len(test))
    names = ["popularity", "catalogue", "known users", "scales of numeric features"]
    assert [one.name for one in table_inputs(experiment)] == names
