"""Experiment: sampled negatives are part of the data, whatever the run; the deterministic mode."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from corral.cli import experiment as experiment_module
from corral.cli import run_files
from corral.cli.experiment import Experiment
from corral.cli.run import train_run
from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.data.split import Part
from corral.data.synthetic import markov_world
from corral.settings import Settings, load_settings
from corral.training.fit import FitState

RECIPE = """
threads: 1
data: {path: DATA}
split: {valid_fraction: 0.15, test_fraction: 0.15}
retriever: {kind: mf, size: 4}
retriever_training: {epochs: 1, batch_size: 256}
ranker: {kind: fm, field_size: 4, history_length: 6}
ranker_training: {epochs: 1, batch_size: 512}
evaluation: {num_candidates: 12}
"""
CLICKS = ("ranker_training.loss=clicks", "ranker_training.sampled_negatives=4")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("experiment") / "data"
    Dataset.write(path, markov_world(60, 40, length=14).interactions)
    return path


def settings(data: Path, *overrides: str) -> Settings:
    return load_settings(RECIPE.replace("DATA", str(data)), "recipe", overrides)


def test_negatives_are_the_same_for_every_run(data: Path, tmp_path: Path) -> None:
    def drawn(name: str, *overrides: str) -> list[list[int]]:
        experiment = Experiment.start(settings(data, *CLICKS, *overrides), tmp_path / name, quiet=True)
        assert experiment.has_clicks
        return [experiment.examples(part).item.tolist() for part in Part]

    first = drawn("first")
    assert first == drawn("seed", "seed=7", "ranker.kind=lr", "retriever.size=8")
    assert first != drawn("other", "ranker_training.sampled_negatives_seed=1")


@pytest.mark.parametrize(
    ("overrides", "sparse"),
    [
        ((), False),  # the retriever's own training reads every row, by the full softmax
        (("together.kind=corr",), True),
        (("together.kind=corr", "together.full_softmax=true"), False),
        (("together.kind=corr", "together.warm_start=true"), False),
        (("together.kind=icc",), True),
        (("together.kind=lcron",), True),
        (("together.kind=rankflow",), True),
    ],
)
def test_large_tables_are_sparse_unless_a_loss_reads_every_row(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...], sparse: bool
) -> None:
    monkeypatch.setattr(experiment_module, "SPARSE_FROM", 1)
    specs = Experiment.start(settings(data, *overrides), tmp_path / "run", quiet=True).specs
    assert specs["retriever"]["sparse"] is sparse
    assert specs["ranker"]["sparse"] is True


def test_folds_that_the_data_lead_to_are_refused_beside_a_clean_teacher(data: Path, tmp_path: Path) -> None:
    """Without times RAR's rule is folds; asked without dropout the teacher would see the row's own fold."""
    timeless = tmp_path / "timeless"
    events = markov_world(60, 40, length=14).interactions.events.select("user_id", "item_id")
    Dataset.write(timeless, Interactions.of(events, source="made up"))
    given = ("together.kind=corr", "split={rule: leave-last-two-out}", "ranker.rar={bits: 64, rerank: 8}")

    def start(name: str, path: Path, *overrides: str) -> Experiment:
        return Experiment.start(settings(path, *given, *overrides), tmp_path / name, quiet=True)

    clean = "together.clean_teacher=true"
    with pytest.raises(ValueError, match="would see the learner's own fold"):
        start("refused", timeless, clean)
    assert not (tmp_path / "refused").exists()
    start("static", timeless, clean, "ranker.rar.rule=static")
    start("other", timeless)
    start("blocks", data, clean)


def test_click_training_on_positives_only(data: Path, tmp_path: Path) -> None:
    """``corral train RECIPE`` with the two overrides: metrics, probabilities and a protocol that says of what."""
    experiment = Experiment.start(settings(data, *CLICKS), tmp_path / "run", quiet=True)
    assert experiment.settings.ranker_training.metric == "auc"
    result = train_run(experiment)
    assert {"click/auc", "click/gauc", "click/logloss"} <= set(result.metrics)
    assert "4 sampled a click" in str(result.protocol["negatives"])
    assert "seed 0" in str(result.protocol["negatives"])
    examples = experiment.examples(Part.TEST)
    assert np.mean(examples.label) == pytest.approx(0.2)


def test_without_them_there_are_no_labels(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sampled_negatives, how many to draw"):
        Experiment.start(settings(data, CLICKS[0]), tmp_path / "run", quiet=True)
    plain = Experiment.start(settings(data), tmp_path / "plain", quiet=True)
    assert "negatives" not in plain.protocol()
    assert (plain.examples(Part.TRAIN).label == 1).all()


def test_other_losses_refuse_them(data: Path) -> None:
    with pytest.raises(ValueError, match="loss=softmax draws num_negatives itself"):
        settings(data, CLICKS[1])


def test_a_metric_that_is_named_is_kept(data: Path) -> None:
    assert settings(data, *CLICKS, "ranker_training.metric=gauc").ranker_training.metric == "gauc"
    with pytest.raises(ValueError, match="validation gives auc, gauc"):
        settings(data, *CLICKS, "ranker_training.metric=ndcg@10")


def test_a_random_split_is_the_same_for_every_seed_of_a_run(data: Path, tmp_path: Path) -> None:
    def part(name: str, *overrides: str) -> list[int]:
        made = Experiment.start(settings(data, "split.rule=random", *overrides), tmp_path / name, quiet=True)
        assert made.protocol()["split_seed"] == made.settings.split.seed
        return made.split.part.tolist()

    assert part("first") == part("second", "seed=9") != part("third", "split.seed=9")


def test_deterministic_mode_holds_while_both_stages_train(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only where it is asked for; two such runs end with the same bytes."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    states: list[bool] = []

    def note(training: str, state: FitState) -> None:
        states.append(torch.are_deterministic_algorithms_enabled())

    weights = []
    try:
        train_run(Experiment.start(settings(data), tmp_path / "plain", quiet=True, on_epoch=note))
        assert states == [False, False]
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
        for name in ("one", "two"):
            chosen = settings(data, "deterministic=true")
            train_run(Experiment.start(chosen, tmp_path / name, quiet=True, on_epoch=note))
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
            weights.append([file.read_bytes() for file in sorted((tmp_path / name / "bundle").glob("*.safetensors"))])
    finally:
        torch.use_deterministic_algorithms(False)
    assert states[2:] == [True] * 4
    assert weights[0]
    assert weights[0] == weights[1]


def test_a_run_is_trained_by_one_process_at_a_time(data: Path, tmp_path: Path) -> None:
    """The second is refused before it reads data; readers, and other runs, are not; an end of any kind frees it."""
    seen: list[str] = []
    run = tmp_path / "run"

    def meanwhile(training: str, state: FitState) -> None:
        with pytest.raises(ValueError, match=f"{run}: is being trained by another process"):
            Experiment.start(settings(data), run, quiet=True)
        with pytest.raises(ValueError, match="is being trained by another process"):
            train_run(Experiment.open(run, quiet=True))
        assert Experiment.open(run, quiet=True).validation
        Experiment.start(settings(data), tmp_path / "other", quiet=True)
        seen.append(training)
        if len(seen) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(Experiment.start(settings(data), run, quiet=True, on_epoch=meanwhile))
    train_run(Experiment.start(settings(data), run, quiet=True, on_epoch=meanwhile))
    assert seen == ["retriever", "ranker"]


def test_of_two_that_begin_a_run_in_the_same_moment_one_has_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both saw an empty directory; what the first one wrote stays."""
    write, run = run_files._write_first, tmp_path / "run"

    def late(path: Path, text: str) -> None:
        monkeypatch.undo()
        run_files.begin(run, settings(data), "data", "hash")
        write(path, text)

    monkeypatch.setattr(run_files, "_write_first", late)
    with pytest.raises(ValueError, match="holds a run with other settings"):
        run_files.begin(run, settings(data, "seed=5"), "data", "hash")
    assert run_files.read_settings(run) == settings(data)
    assert sorted(path.name for path in run.iterdir()) == ["data_hash.txt", "settings.yaml"]


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 users with the same 5 items twice: after the first time all are repeats."""
    rows = [
        (user, item, 100 * turn + 10 * item + user % 10) for turn in (0, 1) for user in range(30) for item in range(5)
    ]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    return Dataset.write(tmp_path_factory.mktemp("repeated") / "data", Interactions.of(frame, source="by hand")).path


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((), "all 45 validation events repeat .* set split.repeats=true, or a longer split.valid_fraction"),
        (CLICKS, "all 45 validation events repeat"),
        (("retriever={kind: popularity}", "ranker=null"), "all 45 test events repeat .* a longer split.test_fraction"),
        (("split={rule: leave-last-two-out}",), "all 30 validation events repeat .* set split.repeats=true$"),
    ],
)
def test_a_split_without_targets_is_refused_before_training(
    repeated: Path, tmp_path: Path, overrides: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ValueError, match=f"{repeated}: {said}"):
        Experiment.start(settings(repeated, *overrides), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    chosen = settings(repeated, *overrides, "split.repeats=true")
    assert Experiment.start(chosen, tmp_path / "run", quiet=True).validation


def test_a_part_without_events_is_refused_before_training(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": [1, 1, 2, 2], "item_id": [1, 2, 2, 3], "timestamp": [1, 2, 3, 4]})
    path = Dataset.write(tmp_path / "data", Interactions.of(frame, source="by hand")).path
    with pytest.raises(ValueError, match="the split leave-last-two-out leaves no validation events"):
        Experiment.start(settings(path, "split={rule: leave-last-two-out}"), tmp_path / "run", quiet=True)


@pytest.mark.parametrize(("late", "said"), [(5.0, "60 of the 60"), (1.0, "0 of the 60")])
def test_labels_of_one_kind_are_refused_before_training(tmp_path: Path, late: float, said: str) -> None:
    """The last tenths of the log are all clicks, or hold none."""
    rows = [(user, item, 10 * item + user % 10) for user in range(30) for item in range(20)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").with_columns(
        pl.when(pl.col("item_id") >= 16).then(late).otherwise(1.0 + pl.col("user_id") % 5).alias("value")
    )
    path = Dataset.write(tmp_path / "data", Interactions.of(frame, source="by hand")).path
    clicks = ("ranker_training.loss=clicks", "ranker_training.label_at_least=4")
    chosen = settings(path, *clicks, "split.valid_fraction=0.1", "split.test_fraction=0.1")
    with pytest.raises(ValueError, match=f"{path}: {said} validation labels are clicks, and both kinds are needed"):
        Experiment.start(chosen, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
