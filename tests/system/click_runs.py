"""Small runs that learn from click labels, trained once a module, and what their bundles must answer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import corral.cli.ranker_stage
import corral.cli.run
from corral.cli.experiment import Experiment
from corral.cli.fit_objective import Validate
from corral.cli.ranker_stage import click_judge, train_ranker
from corral.cli.retriever_stage import train_retriever
from corral.cli.run import train_run
from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.data.synthetic import checkerboard_world
from corral.serving.bundle import save_bundle
from corral.serving.recommender import TwoStageRecommender
from corral.settings import load_settings

RECIPE = """
threads: 1
data: {path: DATA}
split: {repeats: true}
retriever: {kind: two-tower, size: 8, hidden: [8], history_length: 4}
retriever_training: {epochs: 1, batch_size: 64}
ranker: {kind: dcnv2, field_size: 4, hidden: [8], history_length: 4, as_of: {recent: 4}}
ranker_training: {loss: clicks, label_at_least: 1, epochs: 3, batch_size: 64, learning_rate: 0.01, metric: auc}
evaluation: {num_candidates: 10, serve_by: ranker}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Groups of items and users; some users click gladly and some hardly ever, on any item, and no feature says so."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("as-of")
    world = checkerboard_world(60, 24, groups=4, length=14, noise=0.5)
    events, random = world.interactions.events, np.random.default_rng(0)
    glad = random.random(60) < 0.5
    rate = np.where(glad[events["user_id"].to_numpy()], 0.9, 0.1)
    value = pl.Series("value", (random.random(len(events)) < rate).astype(np.float32))
    interactions = Interactions.of(
        events.drop("value", strict=False).with_columns(value),
        user_features=world.interactions.user_features,
        item_features=world.interactions.item_features,
        source="made up",
    )
    return Dataset.write(folder / "data", interactions).path


Train = Callable[..., tuple[Experiment, TwoStageRecommender]]


@pytest.fixture(scope="module")
def train(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains a run, once; gives the recommender that its bundle was saved from."""
    done: dict[tuple[str, ...], tuple[Experiment, TwoStageRecommender]] = {}

    def run(*overrides: str) -> tuple[Experiment, TwoStageRecommender]:
        if overrides not in done:
            saved: list[TwoStageRecommender] = []

            def save(path: Path, recommender: TwoStageRecommender, *, data_name: str, data_hash: str) -> None:
                saved.append(recommender)
                save_bundle(path, recommender, data_name=data_name, data_hash=data_hash)

            settings = load_settings(RECIPE.replace("DATA", str(data)), "as-of", overrides)
            experiment = Experiment.start(settings, tmp_path_factory.mktemp("run"), quiet=True)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(corral.cli.run, "save_bundle", save)
                train_run(experiment)
            done[overrides] = experiment, saved[-1]
        return done[overrides]

    return run


def assert_same_answers(one: TwoStageRecommender, other: TwoStageRecommender) -> None:
    users = [*one.tables.users.ids.to_pylist(), 10_000]
    for time in (None, 20, 10**6):
        first, second = (r.recommend(users, 6, time=time, explain=True) for r in (one, other))
        assert first.item_ids == second.item_ids
        np.testing.assert_array_equal(first.ranker_logits, second.ranker_logits)
        pairs = [(user, item) for user in users[:5] for item in (0, 3, 7)]
        np.testing.assert_array_equal(one.predict(pairs, time=time).values, other.predict(pairs, time=time).values)


def interrupted_and_resumed(experiment: Experiment, directory: Path) -> torch.nn.Module:
    """The ranker of the same run in another directory, stopped at the second validation and started again."""
    left_out = shutil.ignore_patterns("ranker", "bundle", "evaluation", "manifest*")
    shutil.copytree(experiment.directory, directory, ignore=left_out)
    reopened, judged = Experiment.open(directory, quiet=True), 0

    def interrupted(one: Experiment, ranker: torch.nn.Module, retriever: torch.nn.Module) -> Validate:
        validate = click_judge(one, ranker, retriever)

        def stop() -> Mapping[str, float]:
            nonlocal judged
            judged += 1
            if judged == 2:
                raise KeyboardInterrupt
            return validate()

        return stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corral.cli.ranker_stage, "click_judge", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_ranker(reopened, train_retriever(reopened))
    reopened = Experiment.open(directory, quiet=True)
    return train_ranker(reopened, train_retriever(reopened))
