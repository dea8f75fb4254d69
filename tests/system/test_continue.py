"""A run continued on grown data, through the command line: what is kept, what is new, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from corral.cli.experiment import Experiment
from corral.cli.main import main
from corral.cli.ranker_stage import new_ranker
from corral.cli.retriever_stage import new_retriever
from corral.cli.run import judge, judge_earlier, open_models, open_recommender
from corral.data.dataset import Dataset
from corral.data.dataset_append import append_events
from corral.data.interactions import ColumnMap, Interactions
from corral.data.synthetic import markov_world

COMMON = """
threads: 1
data: {path: DATA}
split: {valid_fraction: 0.15, test_fraction: 0.15}
evaluation: {num_candidates: 12, correction: true}
"""
STAGES = """
retriever: {kind: sasrec, size: 8, blocks: 1, max_length: 8}
ranker: {kind: din, field_size: 8, hidden: [8], history_length: 6, evidence: {recent: 3}, linear: {}}
"""
RECIPES = {
    "independent": STAGES
    + """
retriever_training: {epochs: 2, batch_size: 16, loss: sampled-softmax, num_negatives: 5, learning_rate: 0.01}
ranker_training: {epochs: 2, batch_size: 16, num_negatives: 4, learning_rate: 0.01}
""",
    "two-stage": STAGES
    + """
retriever_training: {epochs: 2, batch_size: 16, learning_rate: 0.01}
ranker_training: {epochs: 2, batch_size: 16, num_negatives: 4, sampler: top-k-random, depth: 10, noisy_scores: true}
""",
    "corr": STAGES
    + """
together: {kind: corr, epochs: 2, batch_size: 16, num_negatives: 4, num_codewords: 4, learning_rate: 0.01}
""",
    "general": """
retriever: {kind: mf, size: 8}
ranker: {kind: deepfm, field_size: 8, hidden: [8], batch_norm: true, history_length: 6, evidence: {recent: 3}}
together: {kind: corr, epochs: 2, batch_size: 64, num_negatives: 4, num_codewords: 4, learning_rate: 0.01}
""",
    "rar": """
retriever: {kind: two-tower, size: 8, hidden: [8], history_length: 4}
retriever_training: {epochs: 1, batch_size: 64}
ranker: {kind: fm, field_size: 4, history_length: 4, as_of: {recent: 4}, rar: {look_alikes: 3, recall_items: 3}}
ranker_training: {loss: clicks, sampled_negatives: 2, epochs: 1, batch_size: 64}
""",
}
OLD_ITEMS, ITEMS = 30, 40
SHELVES = ("a", "c", "e", "b")  # b comes with the new items: the codes of c and e move


def features(items: range) -> pl.DataFrame:
    shelves = [SHELVES[3] if item >= OLD_ITEMS else SHELVES[item % 3] for item in items]
    prices = [float(item % 7) for item in items]
    ids = [str(item * 7 % ITEMS + 1000) for item in items]
    return pl.DataFrame({"item_id": ids, "shelf": shelves, "price": prices})


@pytest.fixture(scope="module")
def old_and_new(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pl.DataFrame]:
    """A data set of 40 users and 30 items, and the events that come after: 50 users, 40 items."""
    events = markov_world(50, ITEMS, length=16).interactions.events
    # ids of new users and items sort among the old ones, so that rows move
    events = events.with_columns(
        item_id=(pl.col("item_id") * 7 % ITEMS + 1000).cast(pl.String),
        user_id=(pl.col("user_id") * 7 % 50).cast(pl.String),
    )
    late = (
        (pl.col("timestamp") >= pl.col("timestamp").quantile(0.6))
        | (pl.col("user_id").cast(pl.Int64) % 5 == 0)
        | pl.col("item_id").is_in(features(range(OLD_ITEMS, ITEMS))["item_id"].to_list())
    )
    old, new = events.filter(~late), events.filter(late)
    after = int(old["timestamp"].max()) + 1  # type: ignore[arg-type]
    new = new.with_columns(timestamp=pl.col("timestamp") + after)
    folder = tmp_path_factory.mktemp("continue")
    Dataset.write(folder / "data", Interactions.of(old, item_features=features(range(OLD_ITEMS)), source="made up"))
    return folder / "data", new


def append(data: Path, new: pl.DataFrame) -> Dataset:
    return append_events(data, new, ColumnMap(), item_features=features(range(OLD_ITEMS, ITEMS)))


def corral(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert (leaving.value.code or 0) == code, err
    return err if code else out


def first_run(name: str, folder: Path, old: Path) -> tuple[Path, Path]:
    """A copy of the data set, and a run on it."""
    data = Path(shutil.copytree(old, folder / "data"))
    recipe = folder / "recipe.yaml"
    recipe.write_text((COMMON + RECIPES[name]).replace("DATA", str(data)))
    with pytest.raises(SystemExit) as leaving:
        main(["train", str(recipe), "--run", str(folder / "first"), "-q"])
    assert not leaving.value.code
    return data, folder / "first"


SLOW = ("independent", "two-stage")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in RECIPES])
def test_a_run_goes_on_where_it_was_on_grown_data(
    name: str, old_and_new: tuple[Path, pl.DataFrame], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, first = first_run(name, tmp_path, old_and_new[0])
    then, before = Dataset.open(data), open_recommender(first, "cpu")
    now = append(data, old_and_new[1])
    second = tmp_path / "second"
    said = corral(capsys, "train", "--from", first, "--run", second, "-q")
    assert "Users: 40 then, 10 new." in said
    assert "Items: 30 then, 10 new." in said
    found = json.loads((second / "continuation.json").read_text())
    assert found["events"]["share_new"] == pytest.approx(1 - len(then.events) / len(now.events))
    assert found["split"]["test_from"]["now"] > found["split"]["test_from"]["then"]
    assert found["train_events"]["now"] > found["train_events"]["then"]

    # The weights that training began with.
    experiment = Experiment.open(second, quiet=True)
    assert experiment.settings.continues == first
    retriever = new_retriever(experiment)
    items, users = then.items.rows_in(now.items), then.users.rows_in(now.users)
    old_shelf, new_shelf = (d.item_features.columns["shelf"].vocabulary for d in (then, now))
    assert old_shelf is not None
    assert new_shelf is not None
    shelves = old_shelf.rows_in(new_shelf)
    assert not np.array_equal(shelves, np.arange(len(shelves)))
    assert not np.array_equal(items, np.arange(len(items)))
    moved = {
        "item_embedding.weight": items,
        "items.id.weight": items,
        "catalogue.id.weight": items,
        "user_embedding.weight": users,
        "users.id.weight": users,
        "columns.0.embedding.weight": shelves,
    }
    learned = before.index.items.numpy()
    for old, new in ((before.retriever, retriever), (before.ranker, new_ranker(experiment, retriever))):
        theirs = dict(old.named_parameters())  # type: ignore[union-attr]
        for key, weight in new.named_parameters():
            place = next((rows for ending, rows in moved.items() if key.endswith(ending)), None)
            if place is None:
                assert torch.equal(weight, theirs[key]), key
            else:
                rows = learned if place is items else np.arange(len(place))
                assert torch.equal(weight[torch.from_numpy(place[rows]).long()], theirs[key][rows]), key
    # Both runs judged on the same new test: what the report says is what comes out again.
    earlier = experiment.earlier
    assert earlier is not None
    again = judge_earlier(experiment, earlier)
    assert again.metrics["ndcg@10"] == pytest.approx(found["metrics"]["before"]["ndcg@10"])
    after = judge(experiment, open_models(second, "cpu"))
    assert after.metrics["ndcg@10"] == pytest.approx(found["metrics"]["after"]["ndcg@10"])
    assert np.array_equal(again.targets["item"], after.targets["item"])
    # Given again the command finds the run finished; and what continues can be continued.
    assert corral(capsys, "train", "--from", first, "--run", second, "-q") == said
    corral(capsys, "train", "--from", second, "--run", tmp_path / "third", "--epochs", 0, "-q")


def test_the_earlier_bundle_is_judged_as_it_stands(old_and_new: tuple[Path, pl.DataFrame], tmp_path: Path) -> None:
    """On data that did not grow its figures are those of its own run."""
    _, first = first_run("corr", tmp_path, old_and_new[0])
    experiment = Experiment.open(first, quiet=True)
    settings = experiment.settings.model_copy(update={"continues": first})
    again = Experiment.start(settings, tmp_path / "again", quiet=True)
    assert again.earlier is not None
    found, own = judge_earlier(again, again.earlier), judge(experiment, open_models(first, "cpu"))
    assert found.metrics == pytest.approx(own.metrics)


def test_runs_that_cannot_be_continued(
    old_and_new: tuple[Path, pl.DataFrame], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, first = first_run("two-stage", tmp_path, old_and_new[0])
    grown = append(data, old_and_new[1])
    test_from = int(np.quantile(grown.events.time, 0.3))

    def refused(*words: object, run: str = "next") -> str:
        return corral(capsys, "train", "--from", first, "--run", tmp_path / run, "-q", *words, code=2)

    assert "retriever cannot be continued: the weights" in refused("retriever.size=16", run="larger")
    assert "only one of the two models has the weights" in refused("ranker.kind=fm", run="simpler")
    assert "split.rule=random deals all events anew" in refused("split.rule=random")
    assert "keep split.rule" in refused("split.rule=leave-last-two-out")
    assert "it has trained on what would now be judged" in refused(
        f"split.valid_from={test_from - 200}", f"split.test_from={test_from}"
    )
    assert "--run DIRECTORY" in corral(capsys, "train", "--from", first, code=2)
    (first / "manifest.json").unlink()
    assert "is not finished" in refused()
    assert not (tmp_path / "next").exists()


def test_leave_last_two_out_moves_forward_too(
    old_and_new: tuple[Path, pl.DataFrame], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(old_and_new[0], tmp_path / "data"))
    recipe = tmp_path / "recipe.yaml"
    text = (COMMON + RECIPES["general"]).replace("DATA", str(data))
    recipe.write_text(text.replace("split: {", "split: {rule: leave-last-two-out, "))
    corral(capsys, "train", recipe, "--run", tmp_path / "first", "-q")
    new = old_and_new[1]
    append(data, new)
    corral(capsys, "train", "--from", tmp_path / "first", "--run", tmp_path / "second", "-q")
    early = new.head(2).with_columns(timestamp=pl.lit(0, dtype=pl.Int64), user_id=pl.lit("1"))
    append_events(data, early, ColumnMap())
    said = corral(capsys, "train", "--from", tmp_path / "first", "--run", tmp_path / "third", "-q", code=2)
    assert "new events before old ones" in said
