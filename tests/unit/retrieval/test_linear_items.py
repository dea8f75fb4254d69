"""Linear item weights against ridge regression; exactly as if a user had never been there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from corral.data.batches import Query
from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.data.split import Part, Split, leave_last_two_out
from corral.data.synthetic import markov_world
from corral.ranking.linear_evidence import LinearEvidence
from corral.retrieval.linear_items import LinearItems

LAMBDA = 3.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Split]:
    events = markov_world(users=40, items=12, length=9, noise=0.4).interactions
    dataset = Dataset.write(tmp_path_factory.mktemp("data") / "markov", events, name="markov")
    return dataset, leave_last_two_out(dataset)


def matrix(dataset: Dataset, split: Split, without: int = -1) -> np.ndarray:
    """X [U, M], binary, without a user's row."""
    rows = split.rows(Part.TRAIN)
    found = np.zeros((dataset.n_users, dataset.n_items))
    found[np.asarray(dataset.events.user)[rows], np.asarray(dataset.events.item)[rows]] = 1.0
    if without >= 0:
        found[without] = 0.0
    return found


def regression(x: np.ndarray, target: int) -> np.ndarray:
    """Ridge regression of one item on all others, by its normal equations: what w(. -> target) must be."""
    others = [j for j in range(x.shape[1]) if j != target]
    left = x[:, others]
    solved = np.linalg.solve(left.T @ left + LAMBDA * np.eye(len(others)), left.T @ x[:, target])
    weights = np.zeros(x.shape[1])
    weights[others] = solved
    return weights


def test_weights_are_those_of_a_ridge_regression_without_the_user(world: tuple[Dataset, Split]) -> None:
    dataset, split = world
    table = LinearItems.of(dataset, split, regularisation=LAMBDA)
    items = torch.arange(2, dataset.n_items)
    users = torch.tensor([1, 2, 7, 30])  # the unknown user has no events to take out
    found = table.between(users, items.expand(4, -1), items.expand(4, -1))
    for number, user in enumerate(users.tolist()):
        x = matrix(dataset, split, without=user)
        for column, target in enumerate(items.tolist()):
            wanted = torch.from_numpy(regression(x, target))[items].float()
            torch.testing.assert_close(found[number, column], wanted, rtol=1e-3, atol=1e-5)


def test_as_a_retriever_it_scores_like_the_regression_with_everybody(world: tuple[Dataset, Split]) -> None:
    dataset, split = world
    table = LinearItems.of(dataset, split, regularisation=LAMBDA)
    history = torch.tensor([[0, 0, 2, 5], [3, 4, 6, 7]])
    query = Query(torch.tensor([2, 3]), torch.tensor([-1, -1]), history, torch.zeros(2).long())
    scores = table.encode_queries(query) @ table.encode_items(torch.arange(2, dataset.n_items)).T
    x = matrix(dataset, split)
    for row in range(2):
        held = [item for item in history[row].tolist() if item]
        wanted = [regression(x, target)[held].sum() for target in range(2, dataset.n_items)]
        torch.testing.assert_close(scores[row], torch.tensor(wanted).float(), rtol=1e-3, atol=1e-5)


def test_only_frequent_items_have_weights(world: tuple[Dataset, Split]) -> None:
    dataset, split = world
    counts = split.train_counts(dataset)
    table = LinearItems.of(dataset, split, regularisation=LAMBDA, max_items=4)
    kept = sorted(np.lexsort((np.arange(len(counts)), -counts))[:4].tolist())
    assert table.place.nonzero().flatten().tolist() == kept
    items = torch.arange(dataset.n_items)[None]
    found = table.between(torch.tensor([1]), items, items)[0]
    outside = [item for item in range(dataset.n_items) if item not in kept]
    assert not found[outside].any()
    assert not found[:, outside].any()
    assert not found.diagonal().any()
    x = matrix(dataset, split)[:, kept]
    wanted = torch.from_numpy(np.stack([regression(x, column) for column in range(4)])).float()
    torch.testing.assert_close(found[kept][:, kept], wanted, rtol=1e-3, atol=1e-5)


def test_weights_come_from_train_events_alone(tmp_path: Path) -> None:
    """Other items in the events of validation and test: the same weights."""
    events = markov_world(users=30, items=12, length=8).interactions.events.sort("user_id", "timestamp")
    late = events.with_columns(
        item_id=pl.when(pl.int_range(pl.len()).over("user_id") >= 6)
        .then((pl.col("item_id") + 5) % 12)
        .otherwise(pl.col("item_id"))
    )
    tables = []
    for name, some in (("a", events), ("b", late)):
        dataset = Dataset.write(tmp_path / name, Interactions.of(some, source=name), name=name)
        tables.append(LinearItems.of(dataset, leave_last_two_out(dataset)))
    for name, buffer in tables[0].named_buffers():
        torch.testing.assert_close(buffer, dict(tables[1].named_buffers())[name], rtol=0, atol=0)


def test_evidence_by_hand_and_after_loading(world: tuple[Dataset, Split]) -> None:
    dataset, split = world
    evidence = LinearEvidence(
        LinearItems.of(dataset, split, regularisation=LAMBDA), recent=2, history_length=3, decay=0.5
    )
    history = torch.tensor([[9, 2, 5, 3], [0, 0, 0, 4]])  # of four, the latest three
    query = Query(torch.tensor([2, 1]), torch.tensor([-1, -1]), history, torch.zeros(2).long())
    items = torch.tensor([[6, 5, 0], [7, 1, 4]])
    found = evidence(query, items)
    weights = evidence.table.between(query.user, history[:, 1:], items)
    sums = [weights.sum(-1), weights @ torch.tensor([0.25, 0.5, 1.0]), weights.amax(-1)]
    columns = torch.cat([weights[..., 1:], torch.stack(sums, -1)], -1)
    assert (columns < 0).any()
    torch.testing.assert_close(found, torch.log1p(10 * columns.clamp(min=0)))
    assert found.shape[-1] == evidence.size
    assert found[0, :2].any()
    assert not found[0, 2].any()  # padding
    # Histories shorter than asked for are padded, and a saved table fits into an empty one.
    again = LinearEvidence(LinearItems.empty(dataset.n_items), recent=2, history_length=3, decay=0.5)
    again.load_state_dict(evidence.state_dict())
    short = Query(query.user[1:], query.event[1:], history[1:, 3:], query.time[1:])
    torch.testing.assert_close(again(short, items[1:]), found[1:])


def test_renumbered_items_keep_their_weights(world: tuple[Dataset, Split]) -> None:
    dataset, split = world
    table = LinearItems.of(dataset, split, regularisation=LAMBDA)
    moved = torch.arange(dataset.n_items)
    moved[5:] += 2
    longer = table.renumbered(moved, dataset.n_items + 2)
    users, items = torch.tensor([3]), torch.arange(2, dataset.n_items)[None]
    torch.testing.assert_close(
        longer.between(users, moved[items], moved[items]), table.between(users, items, items), rtol=0, atol=0
    )
    assert not longer.between(users, moved[items], torch.tensor([[5, 6]])).any()


def test_impossible_settings_are_refused(world: tuple[Dataset, Split]) -> None:
    with pytest.raises(ValueError, match="regularisation=0"):
        LinearItems.of(*world, regularisation=0.0)
    with pytest.raises(ValueError, match="recent=9"):
        LinearEvidence(LinearItems.empty(4), recent=9, history_length=5)
