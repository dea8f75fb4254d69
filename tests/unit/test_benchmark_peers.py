"""Peers get the split without what is asked of them, and their answers are judged as our own would be."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from corral.cli.experiment import Experiment
from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.data.split import Part
from corral.data.synthetic import markov_world
from corral.settings import load_settings

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
RECIPE = """
data: {path: DATA}
split: {rule: leave-last-two-out}
retriever: {kind: mf, size: 4}
ranker: {kind: fm, field_size: 4, history_length: 6}
"""
CLICKS = ("ranker_training.loss=clicks", "ranker_training.label_at_least=4", "split.rule=time-cut")


@pytest.fixture(scope="module")
def modules() -> Iterator[SimpleNamespace]:
    """The benchmark's parts; scripts beside each other, not a package."""
    paths = [str(BENCHMARKS), str(BENCHMARKS / "peers")]
    names = ("peer_files", "peer_judge", "peer_run", "peer_systems", "bench_peers")
    sys.path[:0] = paths
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        del sys.path[: len(paths)]


def started(folder: Path, interactions: Interactions, *overrides: str) -> Experiment:
    Dataset.write(folder / "data", interactions)
    return Experiment.start(
        load_settings(RECIPE.replace("DATA", str(folder / "data")), "test", overrides), folder / "run", quiet=True
    )


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return started(tmp_path_factory.mktemp("lists"), markov_world(40, 20, length=9).interactions)


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Twelve ratings of three users; "late" and the item "new" come after train."""
    user = ["a"] * 5 + ["b"] * 4 + ["late"] * 3
    item = ["p", "q", "r", "s", "p", "q", "r", "s", "new", "p", "new", "q"]
    frame = pl.DataFrame(
        {
            "user_id": user,
            "item_id": item,
            "timestamp": [0, 1, 2, 3, 8, 0, 1, 4, 9, 7, 10, 11],
            "value": [5.0, 1.0, 4.0, 2.0, 5.0, 4.0, 1.0, 5.0, 1.0, 2.0, 2.0, 5.0],
        }
    )
    cut = ("split.valid_from=7", "split.test_from=9")
    return started(tmp_path_factory.mktemp("clicks"), Interactions.of(frame, source="test"), *CLICKS, *cut)


def peer_run(modules: SimpleNamespace, files: Path, out: Path) -> object:
    (out / "settings.json").write_text("{}")
    return modules.peer_run.PeerRun("any", files, out)


def test_event_files_hold_the_split_and_no_answer(lists: Experiment, modules: SimpleNamespace, tmp_path: Path) -> None:
    modules.peer_files.write_events(lists, tmp_path, "small")
    run = peer_run(modules, tmp_path, tmp_path)
    events, targets = lists.dataset.events, lists.targets(Part.TEST)
    for part in (Part.TRAIN, Part.VALID):
        found, rows = run.columns(part.name.lower()), lists.split.rows(part)
        rows = rows[lists.counts[events.item[rows]] > 0]
        assert found["order"].tolist() == rows.tolist()
        assert found["item"].tolist() == events.item[rows].tolist()
    assert set(run.columns("test")) == {"user"}
    assert run.columns("test")["user"].tolist() == targets.user.tolist()
    # What a peer may know of a query is the history that ours is given.
    known = run.sequences("train", "valid")
    for row, user in enumerate(targets.user.tolist()):
        history = targets.batch(np.array([row])).query.history[0]
        kept = [item for item in history.tolist() if item and lists.counts[item]]
        assert known[user].tolist()[-len(kept) :] == kept
    assert run.facts["items"] == lists.dataset.n_items


def test_click_files_hide_labels_and_new_ids(clicks: Experiment, modules: SimpleNamespace, tmp_path: Path) -> None:
    modules.peer_files.write_clicks(clicks, tmp_path, "small")
    run = peer_run(modules, tmp_path, tmp_path)
    train, test = run.columns("train"), run.columns("test")
    assert train["label"].tolist() == clicks.examples(Part.TRAIN).label.tolist()
    assert "label" not in test
    (late,), (new,) = clicks.dataset.users.rows(["late"]), clicks.dataset.items.rows(["new"])
    assert set(test["user_id"][test["user"] == late]) == {1}
    assert new not in set(test["item"]) | set(run.columns("histories")["items"])
    for part, columns in ((Part.TRAIN, train), (Part.TEST, test)):
        examples = clicks.examples(part)
        ours = examples.batch(np.arange(len(examples)), 3).query.history.numpy()
        ours = np.where((ours > 0) & (clicks.counts[ours] == 0), 1, ours)
        assert run.histories(columns, 3).tolist() == ours.tolist()


def best_lists(modules: SimpleNamespace, experiment: Experiment, files: Path) -> np.ndarray:
    """Every item by its row, high rows first, by the code that peers with bare scores use."""
    modules.peer_files.write_events(experiment, files, "small")
    run = peer_run(modules, files, files)
    answers: np.ndarray = run.lists(lambda users: np.tile(np.arange(experiment.dataset.n_items), (len(users), 1)))
    return answers


def test_lists_leave_out_what_may_not_be_recommended(
    lists: Experiment, modules: SimpleNamespace, tmp_path: Path
) -> None:
    answers, targets = best_lists(modules, lists, tmp_path), lists.targets(Part.TEST)
    for row, batch in enumerate(targets.batch(np.array([row])) for row in range(len(targets))):
        allowed = set(lists.catalogue.tolist()) - set(batch.exclude[0].tolist())
        assert answers[row][answers[row] > 0].tolist() == sorted(allowed, reverse=True)


def test_judged_lists_have_the_metrics_of_their_ranks(
    lists: Experiment, modules: SimpleNamespace, tmp_path: Path
) -> None:
    answers, targets = best_lists(modules, lists, tmp_path), lists.targets(Part.TEST)
    target = targets.items[targets.offsets[:-1]]
    rank = np.array(
        [1 + (row == item).argmax() if item in row else 0 for row, item in zip(answers, target, strict=True)]
    )
    found = modules.peer_judge.judge_lists(lists, answers).metrics
    inside = (rank > 0) & (rank <= 5)
    assert 0 < inside.sum() < len(rank)
    assert found["recall@5"] == pytest.approx(inside.mean())
    assert found["ndcg@5"] == pytest.approx((inside / np.log2(np.maximum(rank, 1) + 1)).mean())


def test_lists_that_break_the_rules_are_refused(lists: Experiment, modules: SimpleNamespace, tmp_path: Path) -> None:
    answers, judge = best_lists(modules, lists, tmp_path), modules.peer_judge.judge_lists
    seen = answers.copy()
    seen[3, 0] = int(lists.targets(Part.TEST).batch(np.array([3])).query.history[0, -1])
    with pytest.raises(ValueError, match="already: leave it out"):
        judge(lists, seen)
    with pytest.raises(ValueError, match="twice"):
        judge(lists, np.concatenate([answers[:, :1], answers], axis=1))
    with pytest.raises(ValueError, match="item 1 has no train event"):
        judge(lists, np.where(answers == answers[0, 0], 1, answers))
    with pytest.raises(ValueError, match=f"need \\[{len(answers)}, T\\]"):
        judge(lists, answers[:-1])


def test_judged_clicks(clicks: Experiment, modules: SimpleNamespace) -> None:
    labels, judge = clicks.examples(Part.TEST).label, modules.peer_judge.judge_clicks
    right = np.where(labels == 1, 0.75, 0.25)
    found = judge(clicks, right)
    assert found["auc"] == 1
    assert found["logloss"] == pytest.approx(-np.log(0.75))
    assert np.isfinite(judge(clicks, 1.0 - labels)["logloss"]), "certain and wrong is bad, not infinite"
    with pytest.raises(ValueError, match="must lie in"):
        judge(clicks, right + 0.5)
    with pytest.raises(ValueError, match="test examples"):
        judge(clicks, right[:-1])


def test_a_phase_stops_the_clock_around_it(modules: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text("{}")
    run, now = peer_run(modules, tmp_path, tmp_path), iter(range(100))
    clock = SimpleNamespace(process_time=lambda: float(next(now)), perf_counter=lambda: 0.0)
    monkey = pytest.MonkeyPatch()
    monkey.setattr(modules.peer_run, "time", clock)
    try:
        with run.phase("train"):
            run.timed("validate", lambda: None)()
    finally:
        monkey.undo()
    # Clock readings 0 to 3: train from 0 to 1 and from 2 to 3.
    assert {name: spent["cpu"] for name, spent in run.seconds.items()} == {"train": 2.0, "validate": 1.0}


def test_a_quick_look_takes_no_whole_runs_place(
    modules: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, dataset = modules.bench_peers, "amazon-beauty-7core"
    settings = modules.peer_systems.DATASETS[dataset].settings
    cut = {**settings, "epochs": 1}

    def row(seed: int, settings: dict[str, object]) -> dict[str, object]:
        return {"dataset": dataset, "system": "implicit/als", "seed": seed, "metrics": {}, "settings": settings}

    here = [row(0, settings), row(1, cut), row(2, cut)]
    for seed, one in enumerate(here):
        (tmp_path / dataset / f"implicit-als-{seed}").mkdir(parents=True)
        (tmp_path / dataset / f"implicit-als-{seed}" / "row.json").write_text(json.dumps(one))
    assert bench.run(dataset, "implicit", "als", 0, tmp_path, epochs=1) == here[0]
    assert bench.run(dataset, "implicit", "als", 1, tmp_path, epochs=1) == here[1]
    # Seed 1 was published by whoever had the time; seed 2 by nobody.
    written: list[object] = []
    monkeypatch.setattr(bench, "published", lambda name: {"rows": [row(1, settings)]})
    monkeypatch.setattr(bench, "with_published", lambda name, rows: list(rows))
    monkeypatch.setattr(bench, "write_results", lambda name, rows, *rest: written.extend(rows))
    bench.write_page(tmp_path)
    assert sorted(one["seed"] for one in written) == [0, 2]


def test_goals_compare_the_same_model(modules: SimpleNamespace) -> None:
    def row(system: str, speed: float, peak: float) -> dict[str, object]:
        return {"dataset": "d", "system": system, "metrics": {"examples_per_second": speed, "peak_mb": peak}}

    rows = [row("corral/din", 300.0, 40.0), row("recbole/din", 100.0, 60.0), row("recbole/sasrec", 1.0, 1.0)]
    goal = modules.peer_systems.Goal
    (reached,) = modules.bench_peers.goal_lines(rows, goal("recbole", "examples_per_second", 3))
    assert "| 3.0 x | 3 x | reached |" in reached
    (missed,) = modules.bench_peers.goal_lines(rows, goal("recbole", "peak_mb", 2, less=True))
    assert "| 1.5 x | 2 x | **missed** |" in missed
    assert modules.bench_peers.goal_lines(rows, goal("fuxictr", "peak_mb", 2)) == []


def test_a_peer_that_fails_gets_a_line(
    modules: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(peer: str) -> Path:
        raise RuntimeError(f"{peer}: no such package")

    monkeypatch.setattr(modules.bench_peers, "environment", refuse)
    row = modules.bench_peers.run("amazon-beauty-7core", "implicit", "als", 0, tmp_path)
    assert row["failed"] == "implicit: no such package"
    (kept,) = tmp_path.glob("*/*/failed.json")
    assert json.loads(kept.read_text())["failed"] == row["failed"]
