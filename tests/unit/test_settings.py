"""Settings: typos are named with the nearest known key, bad values with their place, and all of it round-trips."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
from pydantic import ValidationError

from corral.settings import DataSettings, Settings, dump_settings, load_settings, watchable
from corral.stage_settings import IccSettings, MatrixFactorizationSettings

MINIMAL = "data: {name: online-retail}"
RECIPES = sorted(entry.name for entry in files("corral.recipes").iterdir() if entry.name.endswith(".yaml"))


def load(*overrides: str, text: str = MINIMAL) -> Settings:
    return load_settings(text, "recipe", overrides)


@pytest.mark.parametrize(
    ("override", "key", "nearest"),
    [
        ("sed=1", "sed", "seed"),
        ("retreiver.kind=mf", "retreiver", "retriever"),
        ("data.nmae=x", "data.nmae", "name"),
        ("split.valid_fracton=0.1", "split.valid_fracton", "valid_fraction"),
        ("retriever_training.learning_rat=0.1", "retriever_training.learning_rat", "learning_rate"),
        ("ranker_training.num_negative=3", "ranker_training.num_negative", "num_negatives"),
        ("retriever={kind: sasrec, max_len: 7}", "retriever.sasrec.max_len", "max_length"),
        ("retriever={kind: gru4rec, hiden: 7}", "retriever.gru4rec.hiden", "hidden"),
        ("ranker={fieldsize: 7}", "ranker.fieldsize", "field_size"),
    ],
)
def test_unknown_key_names_the_nearest(override: str, key: str, nearest: str) -> None:
    with pytest.raises(ValueError, match="unknown key") as error:
        load(override)
    assert str(error.value) == f"recipe: unknown key {key!r}; did you mean {nearest!r}?"


def test_other_data_by_an_override_leaves_those_of_the_recipe_aside() -> None:
    named = "data: {name: amazon-beauty, min_user_events: 7, iterate: true}"
    assert load_settings(named, "r.yaml", ("data.path=shop",)).data == DataSettings(path=Path("shop"))
    filtered = load_settings(named, "r.yaml", ("data.name=ml-1m",)).data
    assert filtered == DataSettings(name="ml-1m", min_user_events=7, iterate=True)
    both = load_settings(named, "r.yaml", ("data.name=ml-1m", "data.path=shop")).data
    assert (both.name, both.path) == ("ml-1m", Path("shop"))  # refused where the data are opened
    assert load_settings("data: {path: shop}", "r.yaml", ("data.name=ml-1m",)).data == DataSettings(name="ml-1m")


def test_another_kind_by_an_override_leaves_the_keys_of_the_former_aside() -> None:
    text = """
data: {name: online-retail}
retriever: {kind: sasrec, size: 24, blocks: 3, max_length: 9}
ranker: {}
together: {kind: corr, epochs: 7, distillation: 0.5}
"""
    settings = load_settings(text, "r.yaml", ("retriever.kind=mf", "together.kind=icc", "together.gate_depth=3"))
    assert settings.retriever == MatrixFactorizationSettings(size=24)
    assert settings.together == IccSettings(epochs=7, gate_depth=3)
    for wrong, message in (
        (("retriever.kind=mf", "retriever.blocks=2"), "unknown key 'retriever.mf.blocks'"),
        (("retriever.kind=bert",), "retriever = "),
    ):
        with pytest.raises(ValueError, match=message):
            load_settings(text, "r.yaml", wrong)
    # What no kind knows is a mistake, whichever is asked for.
    with pytest.raises(ValueError, match=r"unknown key 'retriever\.mf\.bloks'"):
        load_settings(text.replace("blocks", "bloks"), "r.yaml", ("retriever.kind=mf",))


def test_keys_of_another_kind_are_not_offered() -> None:
    """`blocks` belongs to sasrec: a gru4rec recipe is told what gru4rec knows."""
    with pytest.raises(ValueError, match="unknown key") as error:
        load("retriever={kind: gru4rec, blocks: 2}")
    assert "known keys: dropout, hidden, kind, layers, max_length, size" in str(error.value)


def test_several_errors_at_once() -> None:
    with pytest.raises(ValueError, match="recipe") as error:
        load("sed=1", "retriever_training.epochs=-3")
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("seed=-1", "seed = -1"),
        ("seed=many", "seed = 'many'"),
        ("split.rule=shuffled", "split.rule = 'shuffled'"),
        ("split.valid_fraction=1.0", "split.valid_fraction = 1.0"),
        ("retriever_training.epochs=-3", "retriever_training.epochs = -3"),
        ("retriever_training.learning_rate=0", "retriever_training.learning_rate = 0"),
        ("retriever_training.learning_rate=.nan", "retriever_training.learning_rate = nan"),
        ("retriever_training.learning_rate=.inf", "retriever_training.learning_rate = inf"),
        ("retriever={kind: bert}", "retriever = "),
        ("retriever={size: 8}", "retriever = "),
        ("retriever={kind: mf, size: 0}", "retriever.mf.size = 0"),
        ("ranker={kind: transformer}", "ranker.kind = 'transformer'"),
        ("data=", "data = None"),
        ("evaluation.num_candidates=0", "evaluation.num_candidates = 0"),
    ],
)
def test_bad_values_name_their_place(override: str, place: str) -> None:
    with pytest.raises(ValueError, match="recipe: ") as error:
        load(override)
    assert f"recipe: {place}" in str(error.value)


def test_missing_data() -> None:
    with pytest.raises(ValueError, match=r"recipe: data = .*[Rr]equired"):
        load(text="seed: 1")


@pytest.mark.parametrize("text", ["- a\n- b", "hello", "", "3"])
def test_not_a_mapping(text: str) -> None:
    with pytest.raises(ValueError, match="recipe: a recipe is a mapping of settings, found"):
        load(text=text)


def test_not_yaml() -> None:
    with pytest.raises(ValueError, match="recipe: not valid YAML"):
        load(text="data: {name: [")


def test_overrides() -> None:
    settings = load(
        "seed=7",
        "retriever_training.learning_rate=1e-4",
        "retriever_training.low_precision=true",
        "ranker.hidden=[8, 4]",
        "split={rule: given}",
        "split.repeats=yes",
        "data.name=null",
        "data.path=some=where",
        "description='a: b'",
    )
    assert settings.seed == 7
    assert settings.retriever_training.learning_rate == 1e-4
    assert settings.retriever_training.low_precision is True
    assert settings.ranker is not None
    assert settings.ranker.hidden == (8, 4)
    assert settings.ranker.kind == "din"
    assert (settings.split.rule, settings.split.repeats) == ("given", True)
    assert settings.data.name is None
    assert str(settings.data.path) == "some=where"
    assert settings.description == "a: b"


def test_later_overrides_win() -> None:
    assert load("seed=1", "seed=2").seed == 2


def test_an_override_fills_an_empty_group() -> None:
    settings = load("ranker.field_size=3", text=f"{MINIMAL}\nranker:\n")
    assert settings.ranker is not None
    assert settings.ranker.field_size == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "write it as key.key=value"),
        ("=3", "write it as key.key=value"),
        ("", "write it as key.key=value"),
        ("seed.deep=3", "'seed' is not a group of settings"),
        ("seed=[1", "the value: not valid YAML"),
    ],
)
def test_wrong_overrides(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(override, text=f"{MINIMAL}\nseed: 1")


@pytest.mark.parametrize("recipe", RECIPES)
def test_shipped_recipes_validate_and_round_trip(recipe: str) -> None:
    text = files("corral.recipes").joinpath(recipe).read_text(encoding="utf-8")
    settings = load_settings(text, recipe)
    assert settings.description
    assert load_settings(dump_settings(settings), "dump") == settings


def test_there_are_recipes() -> None:
    assert {"demo.yaml", "ml-1m-sasrec.yaml"} <= set(RECIPES)


def test_the_dump_holds_every_default() -> None:
    text = dump_settings(load("data.path=there", "data.name=null"))
    for line in ("seed: 0", "path: there", "  kind: sasrec", "  checkpoint_seconds: 60.0", "ranker: null"):
        assert f"{line}\n" in text
    assert load_settings(text, "dump") == load("data.path=there", "data.name=null")


def test_settings_stand_still() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load().seed = 3  # type: ignore[misc]


CLICKS = "ranker_training={loss: clicks, label_at_least: 4, metric: METRIC}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("retriever_training.metric=ndgc@10",),
            "retriever_training.metric = 'ndgc@10': validation gives ndcg@10, recall@10, mrr@10, recall@100; "
            "did you mean 'ndcg@10'?",
        ),
        (("retriever_training.metric=recall@50",), "did you mean 'recall@10'?"),
        (("ranker={kind: fm}", "ranker_training.metric=recall@10"), "ranker_training.metric = 'recall@10'"),
        (("ranker={kind: fm}", CLICKS.replace("METRIC", "ndcg@10")), "validation gives auc, gauc"),
        (("ranker={kind: fm}", CLICKS.replace("METRIC", "logloss")), "validation gives auc, gauc"),  # lower is better
    ],
)
def test_a_watched_metric_that_validation_does_not_give(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match="metric") as error:
        load(*overrides)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ("retriever_training.metric=recall@50", "evaluation.num_candidates=50"),
        ("ranker={kind: fm}", CLICKS.replace("METRIC", "gauc")),
        ("ranker_training.metric=anything",),  # there is no ranker to train
        ("evaluation.num_candidates=10",),
    ],
)
def test_watched_metrics_that_validation_gives(overrides: tuple[str, ...]) -> None:
    settings = load(*overrides)
    for stage, names in watchable(settings).items():
        assert getattr(settings, stage).metric in names
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "section",
    [
        "together: {kind: corr, sampler: top-k, certain_ranker: true}",
        "retriever_training: {loss: sampled-softmax, sampler: top-k-random, certain: true}",
        "ranker_training: {sampler: top-k, certain: true}",
    ],
)
def test_the_certain_form_needs_log_probabilities(section: str) -> None:
    text = f"data: {{name: online-retail}}\nretriever: {{kind: mf}}\nranker: {{}}\n{section}\n"
    with pytest.raises(ValueError, match="no log-probabilities"):
        load_settings(text, "made up")
    load_settings(text.replace("top-k-random", "uniform").replace("top-k", "midx"), "made up")


def test_linear_weights_that_nobody_would_read_are_refused() -> None:
    asked = ("ranker={kind: fm, linear: {}}", "evaluation.correction=true")
    for clicks in ((), (CLICKS.replace("METRIC", "auc"),)):
        assert load(*asked, *clicks).ranker is not None
        with pytest.raises(ValueError, match="late=false"):
            load(*asked, *clicks, "evaluation.correction=false")
        load(*asked, *clicks, "evaluation.correction=false", "ranker.linear.late=false")
