"""Every way of training two stages, from a shipped recipe to a served bundle, on small planted worlds."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import corral.cli.fit_objective
import corral.cli.run
from corral.cli.experiment import Experiment
from corral.cli.main import main
from corral.cli.ranker_stage import click_logits, new_ranker, new_stages
from corral.cli.recipes import read_recipe
from corral.cli.retriever_stage import click_loader, new_retriever, sampler_for
from corral.cli.run import build_part, judge, open_models, open_recommender, train_run
from corral.cli.run_files import CORRECTION_FILE, EPOCHS_FILE
from corral.cli.together_stage import together_objective, train_together
from corral.data.batches import Query
from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.data.split import Part
from corral.data.synthetic import checkerboard_world, markov_world
from corral.evaluation.result import Evaluation
from corral.ranking.evidence import EvidenceRanker
from corral.ranking.held_out_correction import HeldOutCorrection
from corral.ranking.joined_evidence import JoinedEvidence
from corral.ranking.linear_evidence import LinearEvidence
from corral.rar.ranker import RarRanker
from corral.sampling.top_k import TopKRandomSampler
from corral.serving.bundle import load_bundle, load_weights, save_bundle
from corral.serving.new_items import add_items
from corral.serving.recommendations import Recommendations
from corral.serving.recommender import TwoStageRecommender
from corral.settings import Settings, load_settings
from corral.training.fit import FitState, fit

USERS, LATE = 40, 900  # user 900 has events after the training part only
NO_EVIDENCE = ("ranker.evidence=null", "ranker.linear=null", "evaluation.correction=false")
SMALL = ("ranker.field_size=4", "ranker.hidden=[6]", "ranker.history_length=6", "evaluation.num_candidates=10")
SASREC = "retriever={kind: sasrec, size: 8, blocks: 1, dropout: 0.2, max_length: 8}"
JOINT = ("together.epochs=2", "together.num_negatives=6", "together.warmup_steps=2")
APART = (
    "retriever_training.epochs=1",
    "retriever_training.num_negatives=6",
    "ranker_training.epochs=1",
    "ranker_training.num_negatives=6",
    "ranker_training.depth=8",
)
# What a world of a few items needs beside that.
RECIPES: dict[str, tuple[str, ...]] = {
    "corr": (SASREC, *JOINT, "together.num_codewords=3"),
    "corr-rar": (SASREC, *JOINT, "together.num_codewords=3", "ranker.rar={keys: live, blocks: 3, rerank: 5}"),
    "icc": (SASREC, *JOINT, "together.gate_depth=3"),
    "rankflow": (SASREC, *JOINT, "together.depth=8", "together.best=3"),
    "lcron": (SASREC, *JOINT, "together.depth_retriever=4"),
    "independent": (SASREC, *APART),
    "two-stage": (SASREC, *APART),
    "corr-general": ("retriever.size=8", *JOINT, "together.num_codewords=3", "together.batch_size=64"),
    "independent-general": ("retriever.size=8", *APART),
}
SEQUENTIAL = [name for name in RECIPES if not name.endswith("-general")]


@dataclass(frozen=True)
class Run:
    """A finished run, with the recommender that its bundle was saved from."""

    experiment: Experiment
    result: Evaluation
    recommender: TwoStageRecommender


@dataclass(frozen=True)
class Trainer:
    """Trains recipes on the worlds below a folder; a training that was done is not done again."""

    folder: Path
    done: dict[str, Run]

    def settings(self, recipe: str, *overrides: str) -> Settings:
        world = "groups" if recipe.endswith("-general") else "walks"
        data = f"data={{path: {self.folder / world}}}"
        return read_recipe(recipe, (data, *SMALL, *RECIPES[recipe], *overrides))

    def __call__(self, recipe: str, *overrides: str, name: str | None = None) -> Run:
        key = name or " ".join([recipe, *overrides])
        if key not in self.done:
            saved: list[TwoStageRecommender] = []

            def save(path: Path, recommender: TwoStageRecommender, *, data_name: str, data_hash: str) -> None:
                saved.append(recommender)
                save_bundle(path, recommender, data_name=data_name, data_hash=data_hash)

            directory = self.folder / f"run-{len(self.done)}" if name is None else self.folder / name
            experiment = Experiment.start(self.settings(recipe, *overrides), directory, quiet=True)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(corral.cli.run, "save_bundle", save)
                result = train_run(experiment)
            self.done[key] = Run(experiment, result, saved[-1])
        return self.done[key]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("together")
    walks = markov_world(USERS, 16, length=12).interactions.events
    end = int(walks["timestamp"].max())  # type: ignore[arg-type]
    late = pl.DataFrame({"user_id": [LATE] * 3, "item_id": [0, 1, 2], "timestamp": [end - 2, end - 1, end]})
    Dataset.write(folder / "walks", Interactions.of(pl.concat([walks, late]), source="walks"))
    Dataset.write(folder / "groups", checkerboard_world(USERS, 24, groups=4, length=10).interactions)
    return Trainer(folder, {})


def answers(recommender: TwoStageRecommender) -> list[Recommendations]:
    """Lists for everybody: with and without what they had, and for histories that are given."""
    users = [*recommender.tables.users.ids.to_pylist(), 10_000]
    return [
        recommender.recommend(users, 6, explain=True),
        recommender.recommend(users, 6, filter_seen=False, explain=True),
        recommender.recommend(users[:3], 4, history=[[3, 5], [], None], explain=True),
    ]


def assert_same_answers(one: TwoStageRecommender, other: TwoStageRecommender) -> None:
    for first, second in zip(answers(one), answers(other), strict=True):
        assert first.item_ids == second.item_ids
        assert first.served_by == second.served_by
        for name in ("scores", "retriever_scores", "ranker_logits", "fallback", "counts"):
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
    pairs = [(user, item) for user in one.tables.users.ids.to_pylist()[:5] for item in (0, 3, 7)]
    np.testing.assert_array_equal(one.predict(pairs).values, other.predict(pairs).values)


@pytest.mark.parametrize("evidence", [True, False], ids=["evidence", "plain"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_bundle_answers_as_the_trained_models_did(train: Trainer, recipe: str, evidence: bool) -> None:
    run = train(recipe, *(() if evidence else NO_EVIDENCE))
    ranker = run.recommender.ranker
    assert isinstance(ranker, RarRanker if recipe == "corr-rar" else EvidenceRanker) is (
        evidence or recipe == "corr-rar"
    )
    opened = open_recommender(run.experiment.directory)
    assert opened is not run.recommender
    assert_same_answers(run.recommender, opened)
    # And it is judged as they were.
    again = judge(run.experiment, open_models(run.experiment.directory, "cpu"))
    timeless = {name: value for name, value in run.result.metrics.items() if value == value}
    assert {name: again.metrics[name] for name in timeless} == timeless
    assert 0 <= timeless["ndcg@10"] <= 1


@pytest.mark.parametrize("recipe", ["corr", "two-stage"])
def test_a_corrected_ranker_is_served_as_it_was_judged(train: Trainer, recipe: str) -> None:
    """What validation says of the evidence is part of the ranker: in its bundle, and never in training."""
    late = "ranker.linear={history_length: 8}"
    run = train(recipe, "evaluation.correction=true", "evaluation.serve_by=ranker", late)
    found = json.loads((run.experiment.directory / CORRECTION_FILE).read_text())
    ranker = run.recommender.ranker
    assert isinstance(ranker, EvidenceRanker)
    assert isinstance(ranker.late, LinearEvidence)
    assert bool(ranker.correction.weight.any()) is found["used"]
    assert found["used"] is (found["likelier, nats"] > 0)
    ranker.correction.set(torch.tensor(0.5), torch.linspace(-1, 1, len(ranker.correction.weight)))
    save_bundle(run.experiment.directory / "again", run.recommender, data_name="walks", data_hash="")
    assert_same_answers(run.recommender, load_bundle(run.experiment.directory / "again", build_part))
    # A bundle of before there was a correction: it changes nothing.
    old = {name: value for name, value in ranker.state_dict().items() if not name.startswith("correction.")}
    save_file(old, run.experiment.directory / "old.safetensors")
    (fresh := copy.deepcopy(ranker)).correction = HeldOutCorrection(len(ranker.correction.weight))
    load_weights(run.experiment.directory / "old.safetensors", fresh)
    assert not fresh.correction.fitted
    query = Query(torch.tensor([2]), torch.tensor([-1]), torch.tensor([[3, 5]]), torch.tensor([0]))
    items = torch.tensor([[4, 6]])
    ranker.ranker.eval()
    corrected = ranker.eval()(query, items)
    ranker.train()
    ranker.ranker.eval()
    plain = ranker(query, items)
    torch.testing.assert_close(corrected, ranker.correction(plain, ranker.inputs(query, items)))
    assert not torch.allclose(corrected, plain)
    ranker.eval()


@pytest.mark.parametrize("recipe", ["corr", "two-stage", "corr-general"])
def test_nobody_is_left_without_a_list(train: Trainer, recipe: str) -> None:
    """An unknown user, one whose only events came after training, and given histories, empty ones too."""
    run = train(recipe)
    recommender = open_recommender(run.experiment.directory)
    known = 0
    for users, histories, popular in (
        ([10_000], None, True),
        ([10_000], [[]], True),
        ([10_000], [[-5, 777]], True),  # items that nobody knows
        ([10_000], [[3, 5]], False),
        ([known], None, False),
        ([known], [[]], False),  # the stored history
    ):
        found = recommender.recommend(users, 5, history=histories, explain=True)
        assert found.fallback.tolist() == [popular]
        assert found.counts.tolist() == [5]
        assert np.isfinite(found.scores).all()
        assert found.ranker_logits is not None
        assert np.isfinite(found.ranker_logits).all()
    if recipe != "corr-general":
        late = recommender.recommend([LATE], 5, explain=True)
        assert late.fallback.tolist() == [False]
        assert not {0, 1, 2} & set(late.item_ids[0])


def test_the_ranker_in_service_reads_the_retriever_it_was_trained_beside(train: Trainer) -> None:
    """Another retriever behind the same ranker changes its logits; without evidence it does not."""
    for overrides, reads in (((), True), (NO_EVIDENCE, False)):
        recommender = open_recommender(train("corr", *overrides).experiment.directory)
        users, items = [0] * 4, [1, 2, 3, 4]
        before = recommender.predict(users, items).values
        assert isinstance(recommender.retriever, nn.Module)
        with torch.no_grad():
            for parameter in recommender.retriever.parameters():
                parameter += 0.1
        assert np.array_equal(recommender.predict(users, items).values, before) is not reads


def test_logs_name_the_losses(train: Trainer) -> None:
    wanted = {
        "corr": {"ranker", "retriever", "distillation", "total"},
        "icc": {"total"},
        "lcron": {"survival", "retriever", "ranker", "total"},
    }
    for recipe, losses in wanted.items():
        log = train(recipe).experiment.directory / "together" / "log.jsonl"
        records = [json.loads(line) for line in log.read_text().splitlines()]
        assert len(records) == 2
        for record in records:
            assert {name for name in record if name.startswith("loss/")} == {f"loss/{name}" for name in losses}
            assert {"ndcg@10", "retriever/ndcg@10", "ranker/ndcg@10", "mixture_weight"} <= set(record)
    first, second = (
        json.loads(line)
        for line in (train("rankflow").experiment.directory / "together" / "log.jsonl").read_text().splitlines()
    )
    assert ("loss/tutor" in first, "loss/tutor" in second) == (False, True)


class Stopped(Exception):
    """The power went out."""


def stopping_after(steps: int) -> Callable[..., FitState]:
    """``fit``, cut off after a step and before that step could be saved."""

    def stopping(*arguments: Any, on_step: Callable[[FitState], None], **keywords: Any) -> FitState:
        def step(state: FitState) -> None:
            on_step(state)
            if state.step == steps:
                raise Stopped

        return fit(*arguments, on_step=step, **keywords)

    return stopping


def timeless(value: Any) -> Any:
    """JSON without what depends on the clock."""
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if key not in ("seconds", "time", "created")}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("recipe", "more"),
    [
        # 40 users by 16 a batch: three steps an epoch; stopped within the second, and the third.
        ("corr", ("together.refresh_every=2", "together.distillation_ramp=4")),
        ("corr", ("together.alternating=true", "together.full_softmax=false", "together.max_per_user=2")),
        ("corr", ("together.warm_start=true", "retriever_training.epochs=1")),
        ("rankflow", ()),
        ("lcron", ()),
    ],
    ids=["corr", "alternating", "warm-start", "rankflow", "lcron"],
)
def test_a_run_that_is_stopped_goes_on_as_if_nothing_had_been(
    train: Trainer, recipe: str, more: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    overrides = (*more, "together.epochs=3", "together.checkpoint_seconds=1e-6")
    name = request.node.callspec.id
    whole = train(recipe, *overrides, name=f"{name}-whole").experiment.directory
    stopped = train.folder / f"{name}-stopped"
    for steps in (5, 8):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(corral.cli.fit_objective, "fit", stopping_after(steps))
            with pytest.raises(Stopped):
                train(recipe, *overrides, name=f"{name}-stopped")
        assert not (stopped / "bundle").exists()
    train(recipe, *overrides, name=f"{name}-stopped")
    for file in sorted(path.relative_to(whole) for path in (whole / "bundle").rglob("*") if path.is_file()):
        one, other = (whole / file).read_bytes(), (stopped / file).read_bytes()
        if file.suffix == ".json":
            assert timeless(json.loads(one)) == timeless(json.loads(other)), file
        else:
            assert one == other, file
    logs = [(run / "together" / "log.jsonl").read_text().splitlines() for run in (whole, stopped)]
    assert [timeless(json.loads(line)) for line in logs[0]] == [timeless(json.loads(line)) for line in logs[1]]
    judged = [(run / "evaluation" / "evaluation.json").read_text() for run in (whole, stopped)]
    assert timeless(json.loads(judged[0])) == timeless(json.loads(judged[1]))


@pytest.fixture(scope="module")
def with_features(train: Trainer) -> Run:
    """CoRR over a two-tower retriever and a DeepFM with evidence of both kinds, on items with features."""
    tower = "retriever={kind: two-tower, size: 8, hidden: [8], history_length: 6}"
    return train("corr-general", tower, "ranker.linear={history_length: 8, late: false}", name="towers")


def new_items(number: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "item_id": [-3, 1_000, 1_001][:number],  # before and after all known ids
            "shelf": ["shelf 0", "shelf 1", None][:number],
            "tags": [["tag 0", "stray 1"], ["tag 1"], None][:number],
            "price": [50.0, None, 40.0][:number],
        }
    )


def test_items_are_added_to_a_bundle_whose_ranker_has_evidence(with_features: Run, tmp_path: Path) -> None:
    before = open_recommender(with_features.experiment.directory)
    frame = new_items(3)
    longer = add_items(before, frame, build_part)
    added = frame["item_id"].to_list()
    assert isinstance(longer.ranker, EvidenceRanker)
    # Known items keep their lists and logits: their counts moved with them.
    users = before.tables.users.ids.to_pylist()
    one = before.recommend(users, 24, explain=True)
    other = longer.recommend(users, 27, deny=added, explain=True)
    assert one.item_ids == other.item_ids
    np.testing.assert_allclose(other.ranker_logits, one.ranker_logits, rtol=1e-5, atol=1e-5)
    # New ones are found, and nobody was ever seen with them.
    everything = longer.recommend(users[:4], 27, filter_seen=False)
    assert set(added) <= set(everything.item_ids[0])
    evidence = longer.ranker.evidence
    assert isinstance(evidence, JoinedEvidence)
    rows = torch.from_numpy(longer.tables.items.rows(added).astype(np.int64))
    history = torch.from_numpy(longer.tables.histories.gather(longer.tables.users.rows(users), 6))
    nothing = torch.zeros(len(users), dtype=torch.int64)
    query = Query(torch.from_numpy(longer.tables.users.rows(users).astype(np.int64)), nothing - 1, history, nothing)
    assert float(evidence(query, rows.expand(len(users), -1)).abs().sum()) == 0.0
    # It is a recommender like any other: saved, opened, and made longer again.
    save_bundle(tmp_path / "longer", longer, data_name="groups", data_hash="")
    opened = load_bundle(tmp_path / "longer", build_part)
    assert_same_answers(longer, opened)
    again = add_items(opened, new_items(3).with_columns(item_id=pl.Series([-9, 12_345, 99_999])), build_part)
    assert again.recommend(users, 24, deny=[*added, -9, 12_345, 99_999]).item_ids == one.item_ids


def test_the_one_that_was_given_stays_as_it_is(with_features: Run) -> None:
    before = open_recommender(with_features.experiment.directory)
    wanted = before.recommend([0, 1, 2], 6, explain=True)
    add_items(before, new_items(2), build_part)
    found = before.recommend([0, 1, 2], 6, explain=True)
    assert wanted.item_ids == found.item_ids
    np.testing.assert_array_equal(wanted.ranker_logits, found.ranker_logits)


def test_a_history_is_as_long_in_training_as_in_service(train: Trainer) -> None:
    """The evidence looks further back than the CTR model: every example must bring that much."""
    short = ("ranker.history_length=2", "ranker.evidence.recent=5", "retriever.max_length=4")
    settings = train.settings("corr", *short, "ranker.linear.history_length=7")
    experiment = Experiment.start(settings, train.folder / "never trained", quiet=True)
    # What the correction alone reads is asked for in service only.
    assert experiment.history_length == 7
    assert new_stages(experiment, nn.Identity(), nn.Identity(), 0).history_length == 5


def test_the_retriever_alone_draws_as_deep_as_it_is_told(train: Trainer) -> None:
    deep = ("retriever_training.sampler=top-k-random", "retriever_training.depth=7")
    experiment = Experiment.start(train.settings("independent", *deep), train.folder / "deep", quiet=True)
    sampler = sampler_for(experiment, new_retriever(experiment), experiment.settings.retriever_training)
    assert isinstance(sampler, TopKRandomSampler)
    assert sampler.k == 7


def test_click_labels_are_learned_from_the_history_that_is_served(tmp_path: Path) -> None:
    """A ranker on click labels that reads the retriever's score: of the whole history, not of its own few items."""
    random = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(30), 20),
            "item_id": random.integers(0, 12, 600),
            "timestamp": random.permutation(600),
            "value": random.integers(0, 2, 600).astype(np.float32),
        }
    )
    data = Dataset.write(tmp_path / "labelled", Interactions.of(frame, source="made up"))
    recipe = f"""
threads: 1
data: {{path: {data.path}}}
split: {{repeats: true}}
retriever: {{kind: sasrec, size: 8, blocks: 1, max_length: 10}}
retriever_training: {{epochs: 1, batch_size: 16}}
ranker: {{kind: fm, field_size: 4, history_length: 2, evidence: {{recent: 3}}}}
ranker_training: {{loss: clicks, label_at_least: 1, epochs: 1, batch_size: 256, metric: auc}}
evaluation: {{num_candidates: 5}}
"""
    experiment = Experiment.start(load_settings(recipe, "clicks"), tmp_path / "run", quiet=True)
    train_run(experiment)
    recommender = open_recommender(tmp_path / "run")
    assert isinstance(recommender.ranker, EvidenceRanker)
    logits, _, users = click_logits(experiment, recommender.ranker, Part.TEST)
    examples = experiment.examples(Part.TEST)
    assert users.tolist() == np.asarray(examples.user).tolist()
    whole = examples.batch(np.arange(len(examples)), experiment.history_length)
    with torch.no_grad():
        wanted = recommender.ranker(whole.query, whole.item[:, None])[:, 0].double().numpy()
    np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-6)
    assert recommender.predict([0], [1]).kind == "probability"


def refused(*overrides: str) -> str:
    with pytest.raises(ValueError, match="corr") as error:
        read_recipe("corr", overrides)
    return str(error.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("ranker=null",), "corr: together trains a retriever and a ranker from events: it needs a ranker"),
        (("ranker_training.loss=clicks",), "it needs a ranker, without click labels"),
        (("retriever={kind: popularity}",), "the popularity retriever learns nothing"),
        (("ranker.rar={rule: folds}", "together.clean_teacher=true"), "would see the learner's own fold"),
        (("together.num_negative=3",), "did you mean 'num_negatives'?"),
        (("together.kind=cor",), "corr: together"),
    ],
)
def test_what_cannot_be_trained_together_is_refused_in_one_line(overrides: Sequence[str], words: str) -> None:
    said = refused(*overrides)
    assert words in said
    assert len(said.splitlines()) == 1
    assert "description" not in said, "the whole recipe is no answer"


def untrained(train: Trainer, folder: Path, recipe: str, *overrides: str) -> tuple[Any, Any]:
    """The objective of both stages, and a batch for it."""
    experiment = Experiment.start(train.settings(recipe, *overrides), folder, quiet=True)
    chosen, retriever = experiment.settings.together, new_retriever(experiment)
    assert chosen is not None
    stages = new_stages(experiment, retriever, new_ranker(experiment, retriever), chosen.max_per_user)
    loader = click_loader(experiment, retriever, chosen, experiment.history_length)
    return together_objective(experiment, stages), next(iter(loader.epoch(0)))


@pytest.mark.parametrize("recipe", ["icc", "rankflow", "lcron"])
def test_methods_that_would_drop_the_exposure_loss_refuse_it(train: Trainer, recipe: str, tmp_path: Path) -> None:
    rar = "ranker.rar={blocks: 3, key_size: 3, rerank: 5, alpha: %s}"
    with pytest.raises(
        ValueError, match=rf"kind={recipe} has no place .* exposures: use corr, or ranker\.rar\.alpha=1"
    ):
        untrained(train, tmp_path / "some", recipe, rar % 0.9, "ranker.user_id=true")
    # All that there is to learn then is clicks, by the neighbours too.
    objective, batch = untrained(train, tmp_path / "none", recipe, rar % 1, "ranker.user_id=true")
    objective.refresh()
    objective(batch)["total"].backward()
    ranker = objective.stages.ranker.ranker
    assert isinstance(ranker, RarRanker)
    assert any(part.grad is not None and part.grad.any() for part in ranker.co_interaction.parameters())


@pytest.mark.parametrize(
    "name", ["certain_retriever", "certain_ranker", "full_softmax", "clean_teacher", "only_better_teacher"]
)
def test_each_option_of_corr_arrives_as_itself(train: Trainer, name: str, tmp_path: Path) -> None:
    options = {"certain_retriever", "certain_ranker", "full_softmax", "clean_teacher", "only_better_teacher"}
    chosen = [f"together.{option}={str(option == name).lower()}" for option in sorted(options)]
    objective, _ = untrained(train, tmp_path / "run", "corr", *chosen, "together.temperature=2.5")
    assert {option for option in options if getattr(objective, option)} == {name}
    assert objective.temperature == 2.5


def test_rankflow_needs_a_refresh_an_epoch() -> None:
    with pytest.raises(ValueError, match=r"together\.rankflow\.refresh_every"):
        read_recipe("rankflow", ("together.refresh_every=5",))


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("corr", ("ranker.field_size=5",)),
        ("corr-general", ("retriever={kind: two-tower, size: 4, hidden: [4], history_length: 6}",)),
    ],
)
def test_a_table_that_cannot_be_shared(train: Trainer, recipe: str, overrides: tuple[str, ...], tmp_path: Path) -> None:
    """Another size; or a retriever that makes its item vectors from features."""
    settings = train.settings(recipe, "together.shared_table=true", *overrides)
    with pytest.raises(ValueError, match=r"together\.shared_table: needs a retriever with an item table, and ranker"):
        train_run(Experiment.start(settings, tmp_path / "run", quiet=True))


@pytest.mark.parametrize(
    ("recipe", "override", "may"),
    [
        ("corr", "together.shared_table=false", True),
        ("icc", "seed=0", True),
        ("corr", "together.shared_table=true", False),
        ("corr-rar", "seed=0", False),
    ],
)
def test_whose_retriever_may_keep_its_last_epoch(
    train: Trainer, recipe: str, override: str, may: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that the ranker holds nothing of; what was tried is noted in the run."""
    given: list[nn.Module | None] = []

    def trained(*rest: object, later: nn.Module | None) -> FitState:
        given.append(later)
        return FitState(best=0.25, best_epoch=1, epoch=4, later=None if later is None else 0.5)

    monkeypatch.setattr("corral.cli.together_stage.fit_objective", trained)
    settings = train.settings(recipe, override, "ranker.field_size=8")
    experiment = Experiment.start(settings, tmp_path / "run", quiet=True)
    retriever, _ = train_together(experiment)
    assert given == [retriever if may else None]
    noted = tmp_path / "run" / EPOCHS_FILE
    assert noted.exists() is may
    if may:
        assert json.loads(noted.read_text()) == {"best epoch": 0.25, "retriever of the last": 0.5, "used": True}


def test_a_shared_table_is_one_table(train: Trainer) -> None:
    run = train("corr", "together.shared_table=true", "ranker.field_size=8")
    tables = [part.id_tables()[1][0].weight for part in (run.recommender.retriever, run.recommender.ranker)]  # type: ignore[union-attr]
    assert tables[0] is tables[1]
    assert_same_answers(run.recommender, open_recommender(run.experiment.directory))


@pytest.mark.skipif(find_spec("altair") is None, reason="corral[report] is not installed")
def test_verbs_on_a_run_of_both_stages(train: Trainer, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = train("corr").experiment.directory

    def corral(*words: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert not leaving.value.code, err
        return out

    judged = json.loads(corral("evaluate", run, "--json", "-q"))
    assert judged["metrics"]["ndcg@10"] == train("corr").result.metrics["ndcg@10"]
    assert len(corral("recommend", run, "--user", 0, "--k", 3, "--json").splitlines()) == 3
    page = tmp_path / "report.html"
    corral("report", run, "-o", page, "-q")
    text = page.read_text(encoding="utf-8")
    assert "Both stages together" in text
    assert "retriever/ndcg@10" in text
