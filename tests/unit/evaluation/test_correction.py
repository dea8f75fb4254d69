"""The held-out correction: its weights against another solver, what it puts right, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from corral.data.batches import Query
from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.data.split import Part, time_cut
from corral.data.targets import Targets, targets
from corral.evaluation.correction import Correction, fit_correction
from corral.evaluation.metrics import list_metrics, ranks_by_score, relevant_counts
from corral.ranking.ctr.lr import LR
from corral.ranking.evidence import EvidenceRanker
from corral.ranking.fields import Fields
from corral.ranking.held_out_correction import HeldOutCorrection
from corral.ranking.ranker import FieldRanker
from corral.retrieval.channels import ColdStartChannel, RetrieverChannel
from corral.retrieval.index import ExactIndex
from corral.retrieval.popularity import PopularityChannel

N, PENALTY = 15, 0.01


class World:
    """Who takes what is decided by a taste that one of three inputs knows; logits know a part of it."""

    def __init__(self, folder: Path, known: float) -> None:
        random = np.random.default_rng(0)
        users, items = 120, 20
        self.taste = torch.from_numpy(random.normal(size=(users + 2, items + 2))).float()
        self.noise = torch.from_numpy(random.normal(size=(3, users + 2, items + 2))).float()
        self.known = known
        rows = []
        for user in range(users):
            chance = np.exp(2 * self.taste[user + 2, 2:].numpy())
            # Baskets of two at the end: more than one target in a query.
            for time, count in ((0, 3), (1, 2), (2, 2)):
                taken = random.choice(items, count, replace=False, p=chance / chance.sum())
                rows += [(user, item, 1000 * time + user) for item in taken]
        frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
        dataset = Dataset.write(folder / f"world-{known}", Interactions.of(frame, source="made up"))
        split = time_cut(dataset, valid_from=1000, test_from=2000)
        self.targets: Targets = targets(dataset, split, Part.VALID, history_length=3, repeats=True)
        self.channel = PopularityChannel(torch.from_numpy(split.train_counts(dataset)))

    def logits(self, query: Query, items: Tensor) -> Tensor:
        user = query.user[:, None]
        return self.known * self.taste[user, items] + self.noise[0, user, items]

    def inputs(self, query: Query, items: Tensor) -> Tensor:
        """What is worth something (in a unit of its own), and two columns of noise."""
        user = query.user[:, None]
        columns = [50 * self.taste[user, items], self.noise[1, user, items], self.noise[2, user, items]]
        return torch.stack(columns, -1)

    def fit(self, inputs: Any = None) -> Correction:
        return fit_correction(
            self.targets, self.channel, self.logits, inputs or self.inputs, num_candidates=N, penalty=PENALTY
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("correction"), known=0.3)


def candidates(world: World) -> tuple[Query, Tensor, Tensor, Tensor]:
    (batch,) = list(world.targets.batches(10**6))
    return batch.query, world.channel.recall(batch.query, N, batch.exclude).items, batch.item, batch.owner


def test_weights_minimise_the_objective_as_another_solver_sees_it(world: World) -> None:
    found = world.fit()
    query, items, target, owner = candidates(world)
    logits, inputs = world.logits(query, items).double(), world.inputs(query, items).double()
    deviation = inputs[items != 0].std(0).numpy()

    def loss(parameters: np.ndarray) -> float:
        scale, weight = parameters[0], torch.from_numpy(parameters[1:] / deviation)
        values, losses = scale * logits + inputs @ weight, []
        for one, query_number in zip(target.tolist(), owner.tolist(), strict=True):
            wanted = set(target[owner == query_number].tolist())
            row = items[query_number].tolist()
            if one in row:
                others = [n for n, item in enumerate(row) if item and (item == one or item not in wanted)]
                losses.append(values[query_number, others].logsumexp(0) - values[query_number, row.index(one)])
        return float(torch.stack(losses).mean()) + PENALTY * float((parameters[1:] ** 2).sum() + (scale - 1) ** 2)

    best = minimize(loss, np.array([1.0, 0, 0, 0]), method="BFGS")
    np.testing.assert_allclose(float(found.scale), best.x[0], atol=2e-3)
    np.testing.assert_allclose(found.weight.numpy() * deviation, best.x[1:], atol=2e-3)


def test_what_the_logits_miss_is_put_right_on_other_queries_too(world: World) -> None:
    found = world.fit()
    assert found.helps
    assert found.likelier > 0.1
    assert found.after > found.before + 0.05
    weights = found.weight * torch.tensor([50.0, 1, 1])
    assert weights[0] > 5 * weights[1:].abs().max()
    # What it says of the ranker as it is, is what the ranker is worth.
    query, items, target, owner = candidates(world)
    rank = ranks_by_score(items, world.logits(query, items), target, owner)
    values = list_metrics(rank, owner, relevant_counts(owner, len(items)), [10])["ndcg@10"]
    assert found.before == pytest.approx(float(values.mean()))


def test_who_has_no_history_is_weighed_as_he_is_served(world: World) -> None:
    """Newcomers are given popular items, with counts for scores; the ranker reads the score of a retriever."""
    table = torch.randn(world.taste.shape[0], 4, generator=torch.Generator().manual_seed(1))
    items = torch.randn(world.taste.shape[1], 4, generator=torch.Generator().manual_seed(2))

    class Retriever(nn.Module):
        def encode_queries(self, query: Query) -> Tensor:
            return table[query.user]

        def encode_items(self, rows: Tensor) -> Tensor:
            return items[rows]

    retriever, rows = Retriever(), torch.arange(2, len(items))
    channel = ColdStartChannel(RetrieverChannel(retriever, ExactIndex(items[rows], rows)), world.channel)
    fields = Fields(len(table), len(items), field_size=1, pool_history=False)
    model = LR(1, fields.num_context_fields, fields.num_item_fields, num_extra=1)
    ranker = EvidenceRanker(FieldRanker(fields, model), None, score=True).eval()
    ranker.connect(retriever)
    newcomers = replace(world.targets, history_length=0)  # nobody brings one along
    (batch,) = list(newcomers.batches(10**6))
    assert bool(ColdStartChannel.cold(batch.query).all())
    found = fit_correction(newcomers, channel, ranker, ranker.inputs, num_candidates=N, penalty=PENALTY)

    def scores(query: Query, asked: Tensor) -> Tensor:
        return torch.einsum("bd,bnd->bn", table[query.user], items[asked])[..., None] / 8

    wanted = fit_correction(newcomers, channel, ranker, scores, num_candidates=N, penalty=PENALTY)
    torch.testing.assert_close(found.weight, wanted.weight)
    assert float(found.weight.abs()) > 0.01  # by counts it would be next to nothing


def test_noise_does_not_help(tmp_path: Path) -> None:
    """Logits that know all there is, and inputs that know nothing: on the other half there is nothing to gain."""
    complete = World(tmp_path, known=2.0)
    found = complete.fit(lambda query, items: complete.inputs(query, items)[..., 1:])
    assert found.after < found.before + 0.01
    assert not found.helps
    assert (found.weight.abs() < 0.3).all()


def test_what_a_scale_alone_can_do_is_not_the_weights_merit(tmp_path: Path) -> None:
    """Logits ten times too large: a scale makes every target likelier, and there is nothing else to gain."""
    loud = World(tmp_path, known=2.0)
    logits = loud.logits
    loud.logits = lambda query, items: 10 * logits(query, items)  # type: ignore[method-assign]
    found = loud.fit(lambda query, items: loud.inputs(query, items)[..., 1:])
    assert float(found.scale) < 0.5
    assert not found.helps


def test_the_module_is_the_logit_until_it_is_fitted_and_after_an_old_save() -> None:
    correction, logits, inputs = HeldOutCorrection(2), torch.randn(3, 4), torch.randn(3, 4, 2)
    torch.testing.assert_close(correction(logits, inputs), logits, rtol=0, atol=0)
    assert not correction.fitted
    correction.set(torch.tensor(2.0), torch.tensor([0.5, -1.0]))
    wanted = 2 * logits + 0.5 * inputs[..., 0] - inputs[..., 1]
    torch.testing.assert_close(correction(logits, inputs), wanted)
    assert correction.fitted
    saved, again = correction.state_dict(), HeldOutCorrection(2)
    again.load_state_dict(saved)
    assert again.fitted
    torch.testing.assert_close(again(logits, inputs), wanted)
    fresh = HeldOutCorrection(2)
    fresh.load_state_dict({})
    torch.testing.assert_close(fresh(logits, inputs), logits, rtol=0, atol=0)


def test_what_a_user_says_of_himself_does_not_help(tmp_path: Path) -> None:
    """Inputs that mark each user's own favourite: his other queries confirm it, and other users say nothing of it."""
    people, random = 40, np.random.default_rng(0)
    taste = torch.from_numpy(random.normal(size=(people + 2, 22))).float()
    rows = [(user, item, user) for user in range(people) for item in random.choice(20, 3, replace=False)]
    for user in range(people):
        rows += [(user, user % 20, 1000 + 100 * number + user) for number in range(6)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    dataset = Dataset.write(tmp_path / "own", Interactions.of(frame, source="made up"))
    split = time_cut(dataset, valid_from=1000, test_from=1500)
    asked = targets(dataset, split, Part.VALID, history_length=3, repeats=True)
    favourite = torch.zeros(people + 2, dtype=torch.int64)
    (batch,) = list(asked.batches(10**6))
    favourite[batch.query.user[batch.owner]] = batch.item

    def own(query: Query, items: Tensor) -> Tensor:
        asks = torch.arange(people + 2) == query.user[:, None, None]
        return (asks & (items == favourite[query.user, None])[..., None]).float()

    channel = PopularityChannel(torch.from_numpy(split.train_counts(dataset)))
    found = fit_correction(
        asked, channel, lambda query, items: taste[query.user[:, None], items], own, num_candidates=20
    )
    assert not found.helps
    assert (found.weight > 0).sum() > people / 2  # halves of queries would have praised these weights
