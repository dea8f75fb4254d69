"""corral.TwoStage: from a table to recommendations in Python, with parts of one's own."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

import corral
from corral.cli.main import main
from corral.data.batches import Query
from corral.data.dataset import Dataset
from corral.data.dataset_append import append_events
from corral.data.features import FeatureTable
from corral.data.interactions import ColumnMap
from corral.data.synthetic import markov_world
from corral.ranking.ctr.ctr_model import FieldVectors
from corral.sampling.popularity import PopularitySampler
from corral.two_stage import TwoStage

RECIPE = """
threads: 1
data: {name: online-retail}
split: {valid_fraction: 0.15, test_fraction: 0.15}
retriever: {kind: sasrec, size: 8, blocks: 1, max_length: 8}
retriever_training: {epochs: 1, batch_size: 64}
ranker: {kind: fm, field_size: 4, history_length: 6, evidence: {}}
ranker_training: {epochs: 1, batch_size: 256, num_negatives: 4}
evaluation: {num_candidates: 12, serve_by: fused, correction: true}
"""


@pytest.fixture(scope="module")
def events() -> pl.DataFrame:
    """Users "u0" .., items 1000 ..."""
    world = markov_world(50, 40, length=14).interactions.events
    return world.with_columns(pl.col("item_id") + 1000, user_id=pl.format("u{}", "user_id"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def fitted(events: pl.DataFrame, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> TwoStage:
    run = tmp_path_factory.mktemp("two-stage") / "run"
    shelves = pl.DataFrame({"item_id": range(1000, 1040), "shelf": [str(item % 4) for item in range(40)]})
    return corral.TwoStage(recipe, {"ranker.field_size": 6}, run=run).fit(events, item_features=shelves)


def same_lists(one: TwoStage, other: TwoStage) -> bool:
    first, second = (each.recommend(["u0", "u7", "nobody"], 5) for each in (one, other))
    return first.item_ids == second.item_ids and np.array_equal(first.scores, second.scores)


def test_from_a_table_to_lists(fitted: TwoStage, events: pl.DataFrame) -> None:
    found = fitted.recommend(["u0", "nobody"], 5)
    assert found.user_ids == ["u0", "nobody"]
    assert found.fallback.tolist() == [False, True]
    seen = set(events.filter(pl.col("user_id") == "u0")["item_id"])
    assert found.counts.tolist() == [5, 5]
    assert set(found.item_ids[0]).isdisjoint(seen)
    assert set(fitted.recommend(["u0"], 40, filter_seen=False).item_ids[0]) & seen
    assert fitted.recommend(["u0"], 5, allow=[1003]).item_ids == [[1003]] or 1003 in seen
    pairs = [("u0", 1003), ("u1", 1005)]
    np.testing.assert_array_equal(fitted.predict(pairs).values, fitted.recommender.predict(pairs).values)
    assert fitted.similar_items([1003], 3).ids == [1003]
    assert len(fitted.similar_users(["u3"], 3).neighbour_ids[0]) == 3
    assert fitted.settings.ranker is not None
    assert fitted.settings.ranker.field_size == 6
    assert list(fitted.dataset.item_features.columns) == ["shelf"]


def test_it_is_what_the_command_line_makes(
    fitted: TwoStage, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(recipe), f"data={{path: {fitted.dataset.path}}}", "ranker.field_size=6", "-q"]
    with pytest.raises(SystemExit) as leaving:
        main([*words, "--run", str(tmp_path / "run")])
    assert not leaving.value.code, capsys.readouterr().err
    assert same_lists(fitted, corral.TwoStage.load(tmp_path / "run"))


def test_evaluate(fitted: TwoStage) -> None:
    test, valid = fitted.evaluate(), fitted.evaluate("valid")
    assert (test.protocol["part"], valid.protocol["part"]) == ("test", "valid")
    assert test.metrics["retriever/recall@12"] >= test.metrics["recall@10"]
    with pytest.raises(ValueError, match="part='train'"):
        fitted.evaluate("train")  # type: ignore[arg-type]


def test_save_and_load(fitted: TwoStage, tmp_path: Path) -> None:
    fitted.save(tmp_path / "bundle")
    again = corral.TwoStage.load(tmp_path / "bundle", device="cpu")
    assert same_lists(fitted, again)
    again.save(tmp_path / "twice")
    assert same_lists(fitted, corral.TwoStage.load(tmp_path / "twice"))
    for refused in (again.evaluate, lambda: again.dataset, lambda: again.settings, again.fit):
        with pytest.raises(ValueError, match="bundle"):
            refused()
    assert fitted.run is not None
    opened = corral.TwoStage.load(fitted.run)
    assert opened.evaluate().metrics == fitted.evaluate().metrics
    assert opened.evaluate("valid").metrics.keys() == fitted.evaluate("valid").metrics.keys()
    with pytest.raises(FileExistsError):
        fitted.save(tmp_path)


def test_a_run_whose_data_grew_is_loaded_and_answers(fitted: TwoStage, events: pl.DataFrame, tmp_path: Path) -> None:
    assert fitted.run is not None
    run = tmp_path / "run"
    shutil.copytree(fitted.run, run)
    settings = (run / "settings.yaml").read_text()
    (run / "settings.yaml").write_text(settings.replace(str(fitted.run), str(run)))
    append_events(run / "data", events.tail(3).with_columns(pl.col("timestamp") + 1))
    opened = corral.TwoStage.load(run)
    assert same_lists(fitted, opened)
    assert opened.evaluate().metrics == fitted.evaluate().metrics
    assert opened.settings.seed == fitted.settings.seed
    for refused in (lambda: opened.evaluate("valid"), lambda: opened.dataset):
        with pytest.raises(ValueError, match="was trained on other data"):
            refused()


def test_a_fit_goes_on_where_it_was_and_never_on_other_events(
    fitted: TwoStage, events: pl.DataFrame, recipe: Path
) -> None:
    settings = (fitted.run, fitted.dataset.hash)
    assert fitted.run is not None
    shelves = pl.DataFrame({"item_id": range(1000, 1040), "shelf": [str(item % 4) for item in range(40)]})
    same = TwoStage(recipe, {"ranker.field_size": 6}, run=fitted.run).fit(events, item_features=shelves)
    assert same_lists(fitted, same)
    with pytest.raises(ValueError, match="other events"):
        TwoStage(recipe, {"ranker.field_size": 6}, run=fitted.run).fit(events.head(300))
    assert (fitted.run, Dataset.open(fitted.run / "data").hash) == settings
    assert not list(fitted.run.glob("data.new*"))
    with pytest.raises(ValueError, match="other settings"):
        TwoStage(recipe, run=fitted.run).fit(events, item_features=shelves)


@pytest.mark.parametrize("kind", ["pandas", "pyarrow", "csv", "dataset", "columns"])
def test_every_kind_of_table(kind: str, events: pl.DataFrame, recipe: Path, tmp_path: Path) -> None:
    given: Any = events
    columns = ColumnMap()
    if kind == "pandas":
        given = pytest.importorskip("pandas").DataFrame(events.to_dict(as_series=False))
    elif kind == "pyarrow":
        given = events.to_arrow()
    elif kind == "csv":
        given = tmp_path / "events.csv"
        events.write_csv(given)
    elif kind == "dataset":
        from corral.data.readers import tabular

        given = Dataset.write(tmp_path / "data", tabular.read(events))
    else:
        given, columns = events.rename({"user_id": "who", "item_id": "what"}), ColumnMap(user="who", item="what")
    few = {"retriever_training.epochs": 0, "ranker_training.epochs": 0}
    model = TwoStage(recipe, few).fit(given, columns=columns)
    assert model.run is None
    assert len(model.recommend(["u0"], 3).item_ids[0]) == 3
    assert model.dataset.header.counts.events == len(events)


def test_kinds_of_events_have_weights(recipe: Path, events: pl.DataFrame) -> None:
    kinds = events.with_columns(what=pl.Series(["view", "purchase"] * (len(events) // 2)))
    few = {"retriever_training.epochs": 0, "ranker_training.epochs": 0}
    weights = {"view": 0.25, "purchase": 1.0}
    model = TwoStage(recipe, few).fit(kinds, columns=ColumnMap(event_type="what"), event_weights=weights)
    assert model.dataset.header.event_weights == weights
    assert sorted(set(model.dataset.events.weight.tolist())) == [0.25, 1.0]


def test_what_is_wrong_is_said_before_anything_is_read(recipe: Path, events: pl.DataFrame) -> None:
    with pytest.raises(ValueError, match="did you mean"):
        TwoStage("cor")
    with pytest.raises(ValueError, match=r"unknown key .*sise.*did you mean .size"):
        TwoStage(recipe, {"retriever.sise": 4})
    with pytest.raises(ValueError, match="not fitted yet"):
        TwoStage(recipe).recommend(["u0"])
    with pytest.raises(ValueError, match="user_id"):
        TwoStage(recipe).fit(events.drop("user_id"))
    for beside in ({"item_features": events}, {"event_weights": {"view": 1.0}}):
        with pytest.raises(ValueError, match="go with a table of events"):
            TwoStage(recipe).fit(**beside)


def test_what_a_notebook_shows(fitted: TwoStage) -> None:
    assert repr(fitted).endswith("50 users, 40 items)")
    assert "SASRec then EvidenceRanker" in repr(fitted)
    shown = fitted._repr_html_()
    for word in ("retriever", "ceiling", "oracle ranker", "recall@12", "time-cut"):
        assert word in shown
    assert repr(fitted.dataset) == "Dataset('events', 700 events, 50 users, 40 items)"
    assert "features of items: shelf" in fitted.dataset._repr_html_()
    found = fitted.recommend(["u0", "nobody"], 5)
    assert repr(found) == "Recommendations(2 lists of up to 5 items, by fused)"
    assert str(found.item_ids[0][0]) in found._repr_html_()
    assert "1 without history" in found._repr_html_()
    query = fitted.recommender.query(["u0", "u1"])
    candidates = fitted.recommender.channel.recall(query, 7)
    assert repr(candidates) == "Candidates(2 lists of up to 7 items, 14 in all)"
    assert f"{int(candidates.items[1, 0])} (" in candidates._repr_html_()
    assert repr(TwoStage("corr")) == "TwoStage('corr', not fitted)"


# Parts of one's own


class LastItem(nn.Module):
    """The query is the vector of the last item."""

    def __init__(self, users: FeatureTable, items: FeatureTable) -> None:
        super().__init__()
        self.query, self.item = nn.Embedding(items.rows, 8), nn.Embedding(items.rows, 8)

    def encode_queries(self, query: Query) -> Tensor:
        history = query.history if query.history.shape[1] else query.history.new_zeros(len(query), 1)
        return self.query(history[:, -1])

    def encode_items(self, items: Tensor) -> Tensor:
        return self.item(items)


class Products(nn.Module):
    """A CTR model that reads the summed products of context and item fields, and the history's mean."""

    uses_history = True

    def __init__(
        self,
        field_size: int,
        num_context_fields: int,
        num_item_fields: int,
        *,
        num_history_fields: int | None = None,
        num_extra: int = 0,
    ) -> None:
        super().__init__()
        self.weight, self.extra = nn.Linear(2, 1), nn.Linear(num_extra, 1) if num_extra else None
        self.slot = num_history_fields or num_item_fields

    def forward(self, fields: FieldVectors, history: Tensor, mask: Tensor, extra: Tensor | None = None) -> Tensor:
        item = fields.items.sum(2)
        mean = (history.sum(2) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        pair = torch.stack([(fields.context.sum(2) * item).sum(-1), (mean[:, None] * item).sum(-1)], -1)
        logits = self.weight(pair).squeeze(-1)
        return logits if self.extra is None or extra is None else logits + self.extra(extra).squeeze(-1)


class Bilinear(nn.Module):
    """A whole ranker: the last item against the candidate."""

    def __init__(self, users: FeatureTable, items: FeatureTable, size: int = 6) -> None:
        super().__init__()
        self.item, self.matrix = nn.Embedding(items.rows, size), nn.Linear(size, size)

    def forward(self, query: Query, items: Tensor) -> Tensor:
        history = query.history if query.history.shape[1] else query.history.new_zeros(len(query), 1)
        return torch.einsum("bd,bnd->bn", self.matrix(self.item(history[:, -1])), self.item(items))


def test_parts_of_ones_own_are_trained_saved_and_served(events: pl.DataFrame, recipe: Path, tmp_path: Path) -> None:
    drawn: list[int] = []

    def sampler(catalogue: Tensor, counts: Tensor) -> PopularitySampler:
        drawn.append(len(catalogue))
        return PopularitySampler(catalogue, counts)

    run = tmp_path / "run"
    own = {"retriever": LastItem, "ctr_model": Products}
    overrides = {"ranker_training.sampler": "own", "retriever_training.epochs": 4, "retriever.history_length": 5}
    model = TwoStage(recipe, overrides, run=run, sampler=sampler, **own).fit(events)  # type: ignore[arg-type]
    assert drawn == [len(model.recommender.index.items)]
    assert isinstance(model.recommender.retriever, LastItem)
    assert isinstance(model.recommender.ranker.ranker.ctr, Products)  # type: ignore[union-attr]
    assert "name: LastItem" in (run / "settings.yaml").read_text()
    # It learned: what follows an item of this world is known from it alone.
    assert model.evaluate().metrics["retriever/recall@10"] > 0.35
    model.save(tmp_path / "bundle")
    assert same_lists(model, TwoStage.load(tmp_path / "bundle", **own))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the retriever is one of somebody's own.*load\(\.\.\., retriever="):
        TwoStage.load(tmp_path / "bundle")
    opened = TwoStage.load(run, sampler=sampler, **own)  # type: ignore[arg-type]
    assert opened.evaluate("valid").metrics == model.evaluate("valid").metrics


def test_the_command_line_says_that_it_cannot_know_them(
    events: pl.DataFrame, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["train", str(recipe), "retriever={kind: own}", "--run", str(tmp_path / "run")])
    assert leaving.value.code == 2
    assert "corral.TwoStage(..., retriever=...)" in " ".join(capsys.readouterr().err.split())


def test_a_whole_ranker_of_ones_own(events: pl.DataFrame, recipe: Path, tmp_path: Path) -> None:
    make = partial(Bilinear, size=4)
    model = TwoStage(recipe, {"retriever_training.epochs": 0}, ranker=make).fit(events)
    assert isinstance(model.recommender.ranker, Bilinear)
    assert model.settings.ranker is not None
    assert (model.settings.ranker.name, model.settings.ranker.evidence) == ("Bilinear", None)
    model.save(tmp_path / "bundle")
    assert same_lists(model, TwoStage.load(tmp_path / "bundle", ranker=make))


def test_together_with_both_stages_of_ones_own(events: pl.DataFrame, recipe: Path) -> None:
    together = {"kind": "corr", "epochs": 1, "batch_size": 64, "num_negatives": 5, "sampler": "uniform"}
    model = TwoStage(recipe, {"together": together}, retriever=LastItem, ctr_model=Products).fit(events)
    assert "SASRec" not in repr(model)
    assert model.evaluate().metrics["ndcg@10"] > 0


def test_parts_that_would_not_be_used_are_refused(recipe: Path) -> None:
    with pytest.raises(ValueError, match=r"sampler=PopularitySampler.*together.sampler=own"):
        TwoStage(recipe, sampler=PopularitySampler)
    with pytest.raises(ValueError, match="give one of them"):
        TwoStage(recipe, ranker=Bilinear, ctr_model=Products)
    with pytest.raises(ValueError, match="the sampler is one of somebody's own"):
        TwoStage(recipe, {"ranker_training.sampler": "own"})
    with pytest.raises(ValueError, match=r"nothing of ranker\.evidence"):
        TwoStage(recipe, {"ranker.evidence": {}}, ranker=Bilinear)
