"""Runs with RAR and with what look-alikes did: from settings to a bundle that answers the same, and on from there."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from click_runs import RECIPE, Train, assert_same_answers, interrupted_and_resumed

import corral.cli.ranker_stage
from corral.cli.experiment import Experiment
from corral.cli.ranker_inputs import RankerInputs
from corral.cli.rar_keys import LiveKeys, retriever_keys
from corral.cli.rar_stage import train_exposures
from corral.cli.report import gather
from corral.cli.run import build_part, open_recommender
from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.data.split import Part
from corral.rar.behaviour import BehaviourEvidence
from corral.rar.neighbours import RecalledNeighbours
from corral.rar.ranker import RarRanker
from corral.rar.time_rules import Rule
from corral.report.blocks import Chart
from corral.report.page import report_page
from corral.serving.bundle import load_bundle, save_bundle
from corral.serving.new_items import add_items
from corral.serving.onnx.export import export_onnx
from corral.settings import load_settings

SMALL = "blocks: 3, look_alikes: 3, recall_items: 3, bits: 64, rerank: 8, tower_size: 4"
PLUS = "ranker.behaviour={blocks: 3, people: 5, key_size: 4, history_length: 4}"
FORMS = {
    "rar": (f"ranker.rar={{{SMALL}}}",),
    "plus": (f"ranker.rar={{{SMALL}}}", PLUS),
    "behaviour alone": ("ranker.as_of=null", PLUS),
    "own": (f"ranker.rar={{{SMALL}, keys: own, rule: static}}",),
    "recalled": (f"ranker.rar={{{SMALL}, keys: retriever, pool: recalled, pool_size: 8}}",),
    "folds": (f"ranker.rar={{{SMALL}, rule: folds, folds: 2, exposure: item}}", "ranker.kind=din"),
    "as of the event": (f"ranker.rar={{{SMALL}, as_of_event: true}}", "ranker.kind=din"),
    "features": (f"ranker.rar={{{SMALL}, keys: features, selector: cosine}}", "ranker.kind=lr"),
}


@pytest.mark.parametrize("form", list(FORMS))
def test_the_bundle_answers_as_the_trained_models_did(train: Train, form: str) -> None:
    experiment, recommender = train(*FORMS[form])
    assert isinstance(recommender.ranker, RarRanker) == (form != "behaviour alone")
    if isinstance(recommender.ranker, RarRanker):
        assert recommender.ranker.neighbours.u2u.any() == (form != "as of the event")
        assert isinstance(recommender.ranker.neighbours, RecalledNeighbours) == (form == "recalled")
        assert experiment.inputs is not None
        assert experiment.inputs.rar_rule is not None
        printed = str(experiment.protocol()["rar_rule"])
        opened = open_recommender(experiment.directory).ranker
        assert isinstance(opened, RarRanker)
        for ranker in (recommender.ranker, opened):
            assert printed.startswith(ranker.neighbours.rule.describe()), "what is printed is what was done"
        assert len(recommender.ranker.neighbours.u2u) == {"own": 1, "folds": 3}.get(form, 4)
    assert_same_answers(recommender, open_recommender(experiment.directory))
    assert ("behaviour_rule" in experiment.protocol()) == (PLUS in FORMS[form])


def test_who_came_since_has_look_alikes_by_his_history(train: Train) -> None:
    """As of the event: in the bundle, too; an export cannot search and says so."""
    experiment, _ = train(*FORMS["as of the event"])
    recommender = open_recommender(experiment.directory)
    assert isinstance(recommender.ranker, RarRanker)
    items = recommender.tables.items.ids.to_pylist()
    query = recommender.query([-5, -6], history=[items[:3], []])
    found = recommender.ranker.encode(query).user_rows
    assert (found[0] > 0).all()
    assert not found[1].any()
    printed = str(experiment.protocol()["rar_rule"])
    assert "described by his history at the event" in printed
    table = str(train(*FORMS["rar"])[0].protocol()["rar_rule"])
    shares = [[int(one) for one in re.findall(r"(\d+)% of", text)] for text in (table, printed)]
    assert all(a <= b for a, b in zip(*shares, strict=True)), shares
    assert shares[0][0] < shares[1][0]
    with pytest.raises(ValueError, match="as_of_event"):
        export_onnx(experiment.directory / "onnx", recommender, {})


def test_look_alikes_of_train_events_are_of_other_folds(train: Train) -> None:
    _, recommender = train(*FORMS["folds"])
    assert isinstance(recommender.ranker, RarRanker)
    neighbours = recommender.ranker.neighbours
    fold = neighbours.rule.fold
    assert fold is not None
    user = torch.arange(2, len(fold))
    found = neighbours.look_alike_users(neighbours.rule.snapshot(user, user, learning=True), user)
    assert (found > 0).any(1).all()
    assert ((fold[found] != fold[user][:, None]) | (found == 0)).all()


def test_nothing_after_train_is_looked_up(data: Path, tmp_path: Path) -> None:
    """Other items in validation and test: the same exposures, keys, neighbours and prior."""
    settings = load_settings(RECIPE.replace("DATA", str(data)), "test", FORMS["rar"])
    one, other = (Experiment.start(settings, tmp_path / name, quiet=True) for name in ("one", "other"))
    events = one.dataset.events
    late, item = one.split.part != Part.TRAIN, np.asarray(events.item).copy()
    item[late] = np.random.default_rng(1).permutation(item[late])
    other = replace(other, dataset=replace(one.dataset, events=replace(events, item=item)))
    assert (item != np.asarray(events.item)).any()
    found = []
    for experiment in (one, other):
        inputs = experiment.inputs
        assert inputs is not None
        assert inputs.rar_rule is not None
        keys = inputs.profile_keys(4, inputs.rar_rule)
        found.append([train_exposures(experiment).state_dict(), keys.state_dict(), inputs.noted["rar"]])
    torch.testing.assert_close(*found, rtol=0, atol=0)
    assert len(found[0][0])
    # What was shown is known from train's rows, all of them, and from no other.
    exposures, train = train_exposures(one), one.split.rows(Part.TRAIN)
    user, own = (torch.from_numpy(np.asarray(column).astype(np.int64)) for column in (events.user, events.item))
    shown, _ = exposures.before(user, own, torch.full_like(user, torch.iinfo(torch.int64).max))
    pairs = {(int(u), int(i)) for u, i in zip(user[train], own[train], strict=True)}
    assert shown.bool().tolist() == [(int(u), int(i)) in pairs for u, i in zip(user, own, strict=True)]


def test_what_is_logged_of_the_matching(train: Train) -> None:
    experiment, _ = train(*FORMS["rar"])
    lines = (experiment.directory / "ranker" / "log.jsonl").read_text().splitlines()
    for record in map(json.loads, lines):
        assert 0 < record["rar/covered"] < 1
        assert 0 < record["rar/matched"] < 1
        assert 0 < record["rar/exposed"] < 1


@pytest.fixture(scope="module")
def timeless(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same events; their times are the order of rows, a user's after another's."""
    known = Dataset.open(data)
    user, item = (np.asarray(column) for column in (known.events.user, known.events.item))
    frame = pl.DataFrame({"user_id": user, "item_id": item, "timestamp": np.arange(len(user))})
    interactions = replace(Interactions.of(frame, source="made up"), time_unit="order")
    return Dataset.write(tmp_path_factory.mktemp("timeless") / "data", interactions).path


def inputs_of(data: Path, folder: Path, *overrides: str) -> RankerInputs:
    recipe = RECIPE.replace("DATA", str(data)).replace("loss: clicks, label_at_least: 1, ", "")
    recipe = recipe.replace("metric: auc", "metric: ndcg@10")
    last_two = "split={rule: leave-last-two-out}"
    found = Experiment.start(load_settings(recipe, "test", (last_two, *overrides)), folder / "run", quiet=True).inputs
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("chosen", "rule"), [("keys: profile", Rule.FOLDS), ("keys: live", Rule.STATIC), ("rule: static", Rule.STATIC)]
)
def test_without_times_no_blocks(timeless: Path, tmp_path: Path, chosen: str, rule: Rule) -> None:
    """Rows are in the order of users: whom a block of them knows would be a matter of the alphabet."""
    found = inputs_of(timeless, tmp_path, f"ranker.rar={{{chosen}}}").rar_rule
    assert found is not None
    assert found.rule is rule


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("ranker.rar={rule: blocks}", "ranker.rar: blocks .* has no times.*: use ranker.rar.rule=folds"),
        ("ranker.behaviour={}", "ranker.behaviour: blocks .* has no times.*: use ranker.behaviour=null"),
        ("ranker.similar_rows={}", "ranker.similar_rows: blocks .* has no times"),
    ],
)
def test_blocks_of_what_has_no_times_are_refused(timeless: Path, tmp_path: Path, asked: str, said: str) -> None:
    inputs = inputs_of(timeless, tmp_path, asked)
    with pytest.raises(ValueError, match=said):
        _ = inputs.rar_rule if "rar=" in asked else inputs.evidence


def test_what_is_printed_says_whose_weights_and_how_many_rows(train: Train) -> None:
    experiment, _ = train(*KEYS["live"], *TOGETHER)
    printed = str(experiment.protocol()["rar_rule"])
    assert "keys of a retriever whose weights have seen all of train" in printed
    events, split, inputs = experiment.dataset.events, experiment.split, experiment.inputs
    assert inputs is not None
    assert inputs.rar_rule is not None
    edges = inputs.rar_rule.edges.tolist()
    train_rows = split.rows(Part.TRAIN).tolist()
    for part in Part:
        known = []
        for row in split.rows(part).tolist():
            edge = max((edge for edge in edges if edge <= events.time[row]), default=-1)
            before = [other for other in train_rows if events.time[other] < edge]
            known.append(
                any(events.user[other] == events.user[row] for other in before)
                and any(events.item[other] == events.item[row] for other in before)
            )
        assert f"{np.mean(known):.0%} of {part.name.lower()}" in printed


def test_interrupted_with_live_keys_it_goes_on(train: Train, tmp_path: Path) -> None:
    """Own keys are chosen anew at every epoch: stopped between two choices, the same ranker, bit for bit."""
    experiment, recommender = train(*FORMS["own"])
    ranker = interrupted_and_resumed(experiment, tmp_path / "again")
    assert isinstance(recommender.ranker, torch.nn.Module)
    torch.testing.assert_close(ranker.state_dict(), recommender.ranker.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("form", ["plus", "recalled", "as of the event"])
def test_items_are_added(train: Train, tmp_path: Path, form: str) -> None:
    before = open_recommender(train(*FORMS[form])[0].directory)
    frame = pl.DataFrame({"item_id": [-3, 1_000], "shelf": ["shelf 0", "shelf 1"]})
    longer = add_items(before, frame, build_part)
    users = before.tables.users.ids.to_pylist()
    one = before.recommend(users, 24, explain=True)
    other = longer.recommend(users, 26, deny=frame["item_id"].to_list(), explain=True)
    assert one.item_ids == other.item_ids
    np.testing.assert_allclose(other.ranker_logits, one.ranker_logits, rtol=1e-5, atol=1e-5)
    save_bundle(tmp_path / "longer", longer, data_name="made up", data_hash="")
    assert_same_answers(longer, load_bundle(tmp_path / "longer", build_part))


def test_remembered_evidence_is_the_evidence(train: Train) -> None:
    """Training reads the numbers that were worked out once; they are those of the moment, bit for bit."""
    experiment, _ = train(*FORMS["plus"])
    assert experiment.inputs is not None
    evidence = experiment.inputs.evidence["behaviour"]
    assert isinstance(evidence, BehaviourEvidence)
    ranker = corral.cli.ranker_stage.new_ranker(experiment, torch.nn.Module())
    corral.cli.ranker_stage.remember_evidence(experiment, ranker)
    assert isinstance(ranker, RarRanker)
    examples = experiment.examples(corral.cli.ranker_stage.Part.TRAIN)
    batch = examples.batch(np.arange(0, len(examples), 3), experiment.history_length)
    remembered, inner = ranker.ranker._remembered, ranker.ranker.evidence
    assert remembered is not None
    assert inner is not None
    torch.testing.assert_close(
        remembered(batch.query, batch.item[:, None]), inner(batch.query, batch.item[:, None]), rtol=1e-5, atol=1e-6
    )
    # Another candidate is not known, and worked out.
    assert remembered(batch.query, batch.item.roll(1)[:, None]) is None


TOGETHER = (
    "together={kind: corr, sampler: uniform, epochs: 3, batch_size: 32, num_negatives: 3}",
    "ranker_training={loss: softmax}",
    "retriever_training={}",
)
KEYS = {
    "profile": (f"ranker.rar={{{SMALL}}}", PLUS),
    "own": (f"ranker.rar={{{SMALL}, keys: own, rule: static}}",),
    "live": (f"ranker.rar={{{SMALL}, keys: live, alpha: 0.7}}",),
    "live, recalled": (f"ranker.rar={{{SMALL}, keys: live, pool: recalled, pool_size: 8}}",),
}


@pytest.mark.parametrize("keys", list(KEYS))
def test_both_stages_together_with_rar(train: Train, keys: str) -> None:
    """CoRR's ranker may be RAR's, its neighbours chosen by the vectors of the retriever that learns beside it."""
    experiment, recommender = train(*KEYS[keys], *TOGETHER)
    assert isinstance(recommender.ranker, RarRanker)
    neighbours = recommender.ranker.neighbours
    table = neighbours.recalled if isinstance(neighbours, RecalledNeighbours) else neighbours.i2i
    assert table.any()
    assert neighbours.u2u.any()
    # Live keys: none while the first epoch trains, then a choice before each validation; fixed ones: once.
    refreshes = [
        json.loads(line) for line in (experiment.directory / "together" / "log.jsonl").read_text().splitlines()
    ]
    assert int(neighbours.version) <= (len(refreshes) if keys != "profile" else 1)
    assert all("loss/beside" in record for record in refreshes)
    assert_same_answers(recommender, open_recommender(experiment.directory))


def test_live_keys_are_as_of_their_snapshot(train: Train) -> None:
    """What a user did after a snapshot changes no key of it, with the same retriever."""
    experiment, recommender = train(*KEYS["live"], *TOGETHER)
    assert experiment.inputs is not None
    assert isinstance(recommender.ranker, RarRanker)
    rule, dataset = recommender.ranker.neighbours.rule, experiment.dataset
    keys = LiveKeys(experiment, recommender.retriever, rule)
    late = np.asarray(dataset.events.time) >= int(rule.edges[1])
    item = np.asarray(dataset.events.item).copy()
    item[late] = item[late][::-1]
    other = replace(experiment, dataset=replace(dataset, events=replace(dataset.events, item=item)))
    changed = LiveKeys(other, recommender.retriever, rule)
    first, last = 1, rule.snapshots - 1
    torch.testing.assert_close(keys.users(first), changed.users(first))
    assert not torch.allclose(keys.users(last), changed.users(last))
    assert not keys.users(0).any()  # nobody has done anything before the first block


def test_retrievers_keys_do_not_know_the_blocks_that_they_serve(data: Path, tmp_path: Path) -> None:
    """Other events after a snapshot change no key of it: not its events, and not the epoch that was chosen by them."""
    recipe = RECIPE.replace("DATA", str(data)).replace(
        "{epochs: 1, batch_size: 64}", "{epochs: 12, batch_size: 16, learning_rate: 0.02}"
    )
    settings = load_settings(recipe, "test", (f"ranker.rar={{{SMALL}, keys: retriever}}",))
    experiment = Experiment.start(settings, tmp_path / "one", quiet=True)
    assert experiment.inputs is not None
    rule, dataset = experiment.inputs.rar_rule, experiment.dataset
    assert rule is not None
    late, item = np.asarray(dataset.events.time) >= int(rule.edges[1]), np.asarray(dataset.events.item).copy()
    item[late] = np.random.default_rng(1).permutation(item[late])
    other = Experiment.start(settings, tmp_path / "other", quiet=True)
    other = replace(other, dataset=replace(dataset, events=replace(dataset.events, item=item)))
    keys, changed = retriever_keys(experiment, rule), retriever_keys(other, rule)
    for snapshot in (1, 2):
        torch.testing.assert_close(keys.users(snapshot), changed.users(snapshot), rtol=0, atol=0)
        assert keys.users(snapshot).any()
    assert not torch.equal(keys.users(3), changed.users(3))


def test_who_is_served_without_a_time_asks_after_all_of_train(train: Train) -> None:
    """Also where the latest event is one of train: the split is by lot."""
    _, recommender = train(*FORMS["rar"], "split.rule=random")
    assert isinstance(recommender.ranker, RarRanker)
    query, rule = recommender.query(recommender.tables.users.ids.to_pylist()), recommender.ranker.neighbours.rule
    assert (rule.snapshot(query.time, query.user) == rule.snapshots - 1).all()


def test_the_report_shows_what_the_ranker_matched(train: Train) -> None:
    experiment, recommender = train(*FORMS["rar"])
    assert isinstance(recommender.ranker, RarRanker)
    (report,) = gather([experiment.directory], quiet=True)
    shown = [example for example in report.examples if example.matched is not None]
    assert shown
    tables, ranker = recommender.tables, recommender.ranker
    for example in shown:
        found = example.matched
        assert found is not None
        assert found.item == example.served[0].item.id
        assert found.matrix.shape == (len(found.users), len(found.items))
        assert ((found.matrix > 0) & (found.matrix < 1)).all()
        user = int(tables.users.rows([int(example.user)])[0])
        # The test comes after the last block: the last snapshot's neighbours, none of them the asker.
        last = len(ranker.neighbours.u2u) - 1
        alike = [int(row) for row in ranker.neighbours.u2u[last, user] if row]
        assert found.users == [str(one) for one in tables.users.external(alike)]
    page = report_page([report])
    names = [block.name for panel in page.parts[0].panels for block in panel.blocks if isinstance(block, Chart)]
    assert {"matching-0", "agreement", "candidates"} <= set(names)
