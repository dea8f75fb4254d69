from __future__ import annotations

import optuna
import pytest
import yaml

from corral.cli.default_search import default_search
from corral.cli.recipes import read_recipe, recipe_names
from corral.cli.search_space import (
    Choices,
    Range,
    dump_search,
    override,
    overrides_of,
    params_of,
    read_search,
    suggest,
)
from corral.settings import dump_settings, load_settings

RECIPE = read_recipe("rar")


def test_a_file_says_ranges_and_lists() -> None:
    space = read_search(
        "ranker_training.learning_rate: {low: 1e-4, high: 1e-2, log: true}\n"
        "ranker.dropout: {low: 0, high: 0.5}\n"
        "ranker.field_size: {low: 8, high: 32}\n"
        "ranker_training.weight_decay: [0, 1e-3]\n"
        "ranker.hidden: [[64], [64, 32]]\n"
        "ranker.rar: [null, {alpha: 0.5}]\n",
        "mine.yaml",
        RECIPE,
    )
    assert space["ranker_training.learning_rate"] == Range(low=0.0001, high=0.01, log=True)
    assert isinstance(space["ranker.dropout"].low, float)  # of a setting that is no whole number
    assert isinstance(space["ranker.field_size"].low, int)
    assert space["ranker_training.weight_decay"] == Choices(values=(0, 0.001))
    assert space["ranker.hidden"] == Choices(values=([64], [64, 32]))
    assert read_search(dump_search(space), "again", RECIPE) == space


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "ranker.dropuot: [0.1]",
            "mine.yaml: the recipe has no setting 'ranker.dropuot'; did you mean 'ranker.dropout'?",
        ),
        ("together.learning_rate: [0.1]", "the recipe has no setting 'together.learning_rate'"),
        ("ranker.dropout: [0.1, 1.5]", "mine.yaml: ranker.dropout = 1.5: Input should be less than 1"),
        ("ranker.dropout: {low: 0.1, high: 1}", "ranker.dropout = 1.0: Input should be less than 1"),
        ("ranker.field_size: {low: 0.5, high: 8}", "ranker.field_size = 0.5: Input should be a valid integer"),
        ("ranker.dropout: {low: 0.1, hihg: 0.2}", "ranker.dropout = {'low': 0.1, 'hihg': 0.2}: high: Field required"),
        ("ranker.dropout: {low: 0.3, high: 0.1}", "low must be below high"),
        ("ranker.dropout: {low: 0, high: 0.1, log: true}", "above 0 where log is true"),
        ("ranker.dropout: 0.3", "or a list of values"),
        ("ranker.dropout: []", "ranker.dropout = []"),
        ("ranker.batch_norm: {low: 0, high: 1}", "ranker.batch_norm = False in the recipe: not a number, so list"),
        ("ranker.kind: [deepfm, dcnv3]", "ranker.kind = 'dcnv3': Input should be 'lr', 'fm'"),
        ("split.test_fraction: [0.1]", "split.test_fraction: trials are compared"),
        ("seed: [1, 2]", "seed: trials are compared"),
        ("ranker_training.metric: [auc, gauc]", "ranker_training.metric: trials are compared"),
        ("ranker_training.sampled_negatives: [1, 4]", "sampled_negatives: trials are compared"),
        (
            "ranker_training: [{loss: clicks, label_at_least: 4, metric: auc}, {loss: clicks, sampled_negatives: 8}]",
            "ranker_training: trials are compared",
        ),
        ("ranker: [null]", "changes what validation measures"),
        ("[1, 2]", "mine.yaml: a search space is a mapping of settings"),
        ("a: [", "mine.yaml: not valid YAML"),
        (
            "ranker.dropout: [0.1]\nranker.dropout: [0.2]",
            "mine.yaml, line 2: the key 'ranker.dropout' stands there twice",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError) as refused:
        read_search(text, "mine.yaml", RECIPE)
    assert said in str(refused.value)


def test_a_trial_s_overrides_are_settings_that_train_takes() -> None:
    space = read_search(
        "ranker_training.learning_rate: {low: 1e-9, high: 1e-2, log: true}\n"
        "ranker.field_size: {low: 8, high: 32}\n"
        "ranker.hidden: [[64], [64, 32]]\n"
        "ranker.rar: [null, {alpha: 0.5}]\n"
        "ranker.kind: [fm, dcnv2]\n",
        "mine.yaml",
        RECIPE,
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        suggest(trial, space)
        settings = load_settings(dump_settings(RECIPE), "trial", overrides_of(trial.params))
        assert settings.ranker is not None
        exact = trial.params["ranker_training.learning_rate"]
        assert settings.ranker_training.learning_rate == pytest.approx(exact, rel=1e-3)
        assert settings.ranker.field_size == trial.params["ranker.field_size"]
        assert list(settings.ranker.hidden) == yaml.safe_load(trial.params["ranker.hidden"])
        assert (settings.ranker.rar is None) == (trial.params["ranker.rar"] == "null")
        assert settings.ranker.kind in ("fm", "dcnv2")
        study.tell(trial, 0.0)
    assert override("a.b", 1 / 3) == "a.b=0.3333"


def test_the_recipe_s_own_values_are_parameters_where_the_space_holds_them() -> None:
    space = read_search(
        "ranker.dropout: [0.2, 0.4]\n"
        "ranker.field_size: {low: 17, high: 32}\n"  # the recipe has 16
        "ranker.embedding_dropout: {low: 0.0, high: 0.5}\n"
        "ranker.attention_size: {low: 4, high: 8}\n",  # the recipe has none
        "mine.yaml",
        RECIPE,
    )
    assert params_of(RECIPE, space) == {"ranker.dropout": "0.2", "ranker.embedding_dropout": 0.2}


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_that_learns_can_be_tuned(name: str) -> None:
    settings = read_recipe(name)
    if settings.retriever.kind == "popularity":
        with pytest.raises(ValueError, match="nothing to tune"):
            default_search(settings)
        return
    space = default_search(settings)
    last = "together" if settings.together else "ranker_training" if settings.ranker else "retriever_training"
    assert f"{last}.learning_rate" in space
    assert f"{last}.learning_rate" in params_of(settings, space)
    assert ("ranker.rar.alpha" in space) == bool(settings.ranker and settings.ranker.rar)
    assert not [one for one in space if settings.ranker is None and one.startswith("ranker")]
    assert read_search(dump_search(space), "shown", settings) == space
