"""Runs whose ranker reads as-of statistics: from a recipe to a bundle that answers the same, and on from there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from click_runs import RECIPE, Train, assert_same_answers, interrupted_and_resumed

from corral.cli.experiment import Experiment
from corral.cli.ranker_stage import click_logits
from corral.cli.run import build_part, judge, open_models, open_recommender, train_run
from corral.cli.run_files import CORRECTION_FILE, EVALUATION
from corral.data.as_of import AsOfRule
from corral.data.split import Part
from corral.evaluation.result import Evaluation
from corral.ranking.as_of_evidence import AsOfEvidence
from corral.ranking.evidence import EvidenceRanker
from corral.ranking.joined_evidence import JoinedEvidence
from corral.serving.bundle import load_bundle, save_bundle
from corral.serving.new_items import add_items
from corral.settings import load_settings

BOTH = "ranker.evidence={recent: 3}"


@pytest.mark.parametrize("overrides", [(), (BOTH,), ("ranker.as_of.rule=train",)], ids=["alone", "joined", "train"])
def test_the_bundle_answers_as_the_trained_models_did(train: Train, overrides: tuple[str, ...]) -> None:
    experiment, recommender = train(*overrides)
    assert isinstance(recommender.ranker, EvidenceRanker)
    assert isinstance(recommender.ranker.evidence, JoinedEvidence if BOTH in overrides else AsOfEvidence)
    opened = open_recommender(experiment.directory)
    assert_same_answers(recommender, opened)
    first = Evaluation.open(experiment.directory / EVALUATION)
    again = judge(experiment, open_models(experiment.directory, "cpu"))
    timeless = {name: value for name, value in first.metrics.items() if value == value}
    assert {name: again.metrics[name] for name in timeless} == timeless
    rule = "train" if "ranker.as_of.rule=train" in overrides else "streaming"
    assert str(again.protocol["as_of_rule"]).startswith(f"{rule}: ")


def test_what_the_statistics_know_is_learned(train: Train) -> None:
    """Users of the test whose gladness only their past clicks tell: far better than without."""
    experiment, _ = train()
    bare, _ = train("ranker.as_of=null", "ranker.user_id=false")
    found = [judge(one, open_models(one.directory, "cpu")).metrics["click/auc"] for one in (experiment, bare)]
    assert found[0] > 0.8
    assert found[0] > found[1] + 0.1


@pytest.mark.parametrize("late", [(), ("ranker.linear={}",)], ids=["statistics", "and linear weights"])
def test_what_training_left_is_put_right_by_held_out_labels(train: Train, late: tuple[str, ...]) -> None:
    """Hardly trained at all: the statistics are weighed anew on validation, and the bundle keeps that."""
    short = ("ranker_training.epochs=1", "ranker_training.learning_rate=0.00001")
    plain, _ = train(*short)
    corrected, recommender = train(*short, *late, "evaluation.correction=true")
    found = json.loads((corrected.directory / CORRECTION_FILE).read_text(encoding="utf-8"))
    assert found["metric"] == "auc"
    assert found["used"], found
    assert found["after, cross-validated"] > found["before"]
    assert not (plain.directory / CORRECTION_FILE).exists()
    before, after = (judge(one, open_models(one.directory, "cpu")).metrics for one in (plain, corrected))
    assert after["click/logloss"] < before["click/logloss"] - 0.01
    assert after["click/auc"] > before["click/auc"]
    assert_same_answers(recommender, open_recommender(corrected.directory))


def test_time_of_a_request_decides_what_is_known(train: Train) -> None:
    _, recommender = train()
    pairs = [(user, item) for user in recommender.tables.users.ids.to_pylist()[:5] for item in (0, 3)]
    late, later, early = (recommender.predict(pairs, time=time).values for time in (60, 61, 0))
    assert not np.array_equal(late, early)
    # A moment with no event between: only the ages move.
    assert np.abs(late - later).max() < np.abs(late - early).max()


def test_an_interrupted_training_goes_on(train: Train, tmp_path: Path) -> None:
    """Stopped at the second of three validations, and started again: the same ranker, bit for bit."""
    experiment, recommender = train()
    ranker = interrupted_and_resumed(experiment, tmp_path / "again")
    assert isinstance(recommender.ranker, torch.nn.Module)
    torch.testing.assert_close(ranker.state_dict(), recommender.ranker.state_dict(), rtol=0, atol=0)
    wanted, found = (click_logits(experiment, one, Part.TEST)[0] for one in (recommender.ranker, ranker))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("overrides", [(), (BOTH,)], ids=["alone", "joined"])
def test_items_are_added(train: Train, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    before = open_recommender(train(*overrides)[0].directory)
    frame = pl.DataFrame(
        {
            "item_id": [-3, 1_000, 1_001],
            "shelf": ["shelf 0", "shelf 1", None],
            "tags": [["tag 0", "stray 1"], ["tag 1"], None],
            "price": [50.0, None, 40.0],
        }
    )
    longer = add_items(before, frame, build_part)
    added = frame["item_id"].to_list()
    users = before.tables.users.ids.to_pylist()
    one = before.recommend(users, 24, explain=True)
    other = longer.recommend(users, 27, deny=added, explain=True)
    assert one.item_ids == other.item_ids
    np.testing.assert_allclose(other.ranker_logits, one.ranker_logits, rtol=1e-5, atol=1e-5)
    assert set(added) <= set(longer.recommend(users[:4], 27).item_ids[0])
    save_bundle(tmp_path / "longer", longer, data_name="made up", data_hash="")
    assert_same_answers(longer, load_bundle(tmp_path / "longer", build_part))
    # The one that was given stays as it is.
    np.testing.assert_array_equal(before.recommend(users, 24, explain=True).ranker_logits, one.ranker_logits)


def test_the_rule_follows_the_split(data: Path, tmp_path: Path) -> None:
    rules = {"time-cut": AsOfRule.STREAMING, "leave-last-two-out": AsOfRule.TRAIN}
    for number, (split, rule) in enumerate(rules.items()):
        text = RECIPE.replace("DATA", str(data)).replace("repeats: true", f"repeats: true, rule: {split}")
        for at, (overrides, wanted) in enumerate((((), rule), (("ranker.as_of.rule=streaming",), AsOfRule.STREAMING))):
            settings = load_settings(text, "as-of", overrides)
            experiment = Experiment.start(settings, tmp_path / f"{number}{at}", quiet=True)
            assert experiment.inputs is not None
            assert experiment.inputs.as_of_rule is wanted
            statistics = experiment.inputs.evidence["as_of"].statistics
            events = (
                len(experiment.split.part) if wanted is AsOfRule.STREAMING else int((experiment.split.part == 0).sum())
            )
            assert statistics.sizes["events"] == events


def test_against_sampled_items_there_are_counts_alone(data: Path, tmp_path: Path) -> None:
    overrides = ("ranker_training={loss: softmax, epochs: 1, num_negatives: 3}",)
    settings = load_settings(RECIPE.replace("DATA", str(data)), "as-of", overrides)
    experiment = Experiment.start(settings, tmp_path / "run", quiet=True)
    assert experiment.inputs is not None
    assert not experiment.inputs.evidence["as_of"].statistics.labelled
    train_run(experiment)
    assert_same_answers(open_recommender(tmp_path / "run"), open_recommender(tmp_path / "run"))
