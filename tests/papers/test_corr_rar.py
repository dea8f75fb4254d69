"""The two papers together: CoRR's objective over RAR's ranker, its losses made one by one, and which moves what."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corral.corr.objective import CooperativeObjective
from corral.corr.stages import Stages
from corral.corr.two_stage import TwoStageObjective
from corral.data.batches import Batch, Query
from corral.ranking.ctr.deepfm import DeepFM
from corral.ranking.evidence import EvidenceRanker
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker
from corral.rar.co_interaction import CoInteraction, pair_exposure_loss
from corral.rar.exposure import PairLog
from corral.rar.joint_ranker import JointRanker
from corral.rar.keys import GivenKeys
from corral.rar.neighbours import CataloguePools, Neighbours
from corral.rar.ranker import RarRanker
from corral.rar.selection import ExactSelector
from corral.rar.time_rules import TimeRule
from corral.retrieval.matrix_factorization import MatrixFactorization
from corral.sampling.uniform import UniformSampler

USERS, ITEMS, SIZE, N, B, ALPHA = 20, 15, 4, 5, 12, 0.7


def make(alpha: float = ALPHA, exposed_items: int = 2) -> tuple[Stages, PairLog]:
    """An MF beside RAR around DeepFM with the retriever's score, neighbours chosen from given keys."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    log = [random.integers(2, high, 80) for high in (USERS, ITEMS)] + [np.zeros(80, dtype=np.int64)]
    exposures, rule = PairLog.of(*log, num_items=ITEMS), TimeRule.static()
    fields = Fields(USERS, ITEMS, field_size=SIZE, pool_history=False)
    ctr = DeepFM(SIZE, fields.num_context_fields, fields.num_item_fields + 2, hidden=(8,), num_extra=1)
    ranker = RarRanker(
        EvidenceRanker(FieldRanker(fields, ctr), None, score=True),
        Neighbours(USERS, ITEMS, rule, look_alikes=3, recall_items=4),
        CoInteraction(SIZE, SIZE, tower_size=8, output_size=SIZE),
    )
    keys, pools = GivenKeys(torch.randn(USERS, 6), torch.randn(ITEMS, 6)), CataloguePools(*log, rule)
    joint = JointRanker(
        ranker,
        exposures if alpha < 1 else None,
        lambda neighbours: neighbours.refresh(keys, pools, (ExactSelector("cosine"), ExactSelector("cosine"))),
        alpha=alpha,
        exposed_items=exposed_items,
    )
    retriever = MatrixFactorization(USERS, ITEMS, size=SIZE)
    ranker.connect(retriever)
    return Stages(retriever, joint, torch.arange(2, ITEMS)), exposures


def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    user, item = (torch.randint(2, high, (B,), generator=generator) for high in (USERS, ITEMS))
    query = Query(user, torch.full((B,), -1), torch.zeros(B, 3).long(), torch.zeros(B).long())
    return Batch(query, item, torch.ones(B))


def moved(module: torch.nn.Module) -> bool:
    return any(p.grad is not None and float(p.grad.to_dense().abs().sum()) > 0 for p in module.parameters())


@pytest.mark.parametrize("exposed_items", [1, 2, 1 + N])
def test_the_ranker_loss_is_alpha_clicks_and_the_rest_exposures(exposed_items: int) -> None:
    stages, exposures = make(exposed_items=exposed_items)
    objective = CooperativeObjective(stages, UniformSampler(stages.catalogue), num_negatives=N).eval()
    objective.refresh()
    given = batch()
    found = objective(given)
    both = stages.sample(stages.encode(given), objective.sampler, N, torch.Generator().manual_seed(0))
    clicks = (
        -(both.logits - both.log_q)
        .masked_fill(torch.cat([torch.zeros(B, 1).bool(), both.hit], 1), -torch.inf)
        .log_softmax(1)[:, 0]
        .mean()
    )
    enriched = stages.ranker.ranker.enriched(given.query, both.items, both.scores.detach())  # type: ignore[union-attr]
    losses = []
    for b in range(B):
        cells = []
        for n in range(exposed_items):
            for k, user in enumerate(enriched.user_rows[b].tolist()):
                for j, item in enumerate(enriched.item_rows[b, n].tolist()):
                    one = torch.tensor([user]), torch.tensor([item]), torch.tensor([10**9])
                    seen = bool(exposures.before(*one)[0])
                    if user and item:
                        logit = enriched.matching.logits[b, n, k, j]
                        cells.append(torch.nn.functional.softplus(-logit if seen else logit))
        losses.append(torch.stack(cells).mean())
    exposure = torch.stack(losses).mean()
    torch.testing.assert_close(found["beside"], exposure)
    torch.testing.assert_close(found["ranker"], ALPHA * clicks + (1 - ALPHA) * exposure)
    torch.testing.assert_close(found["total"], found["ranker"] + found["retriever"] + found["distillation"])


def test_exposures_move_the_matching_and_never_the_retriever() -> None:
    stages, _ = make()
    objective = CooperativeObjective(stages, UniformSampler(stages.catalogue), num_negatives=N)
    objective.refresh()
    objective(batch())["beside"].backward()
    joint = stages.ranker
    assert isinstance(joint, JointRanker)
    assert moved(joint.ranker.co_interaction.user_tower)
    assert moved(joint.ranker.co_interaction.item_tower)
    assert not moved(joint.ranker.ranker.ranker.ctr)
    assert not moved(stages.retriever)


@pytest.mark.parametrize("alpha", [1.0, ALPHA])
def test_a_ranker_beside_a_finished_retriever_has_the_same_loss(alpha: float) -> None:
    """Two-stage training weighs clicks and exposures alike; with alpha = 1 there is nothing but clicks."""
    stages, _ = make(alpha)
    objective = TwoStageObjective(stages, UniformSampler(stages.catalogue), num_negatives=N).eval()
    objective.refresh()
    together = CooperativeObjective(stages, UniformSampler(stages.catalogue), num_negatives=N).eval()
    torch.testing.assert_close(objective(batch())["total"], together(batch())["ranker"])
    if alpha == 1.0:
        assert float(together(batch())["beside"]) == 0.0


def test_pair_loss_of_some_items_is_that_of_their_cells() -> None:
    """``exposed_items`` looks at the first items' cells as if the others had not been asked for."""
    stages, exposures = make(exposed_items=1)
    joint, given = stages.ranker, batch()
    assert isinstance(joint, JointRanker)
    joint.refresh()
    items = torch.cat([given.item[:, None], given.item.roll(1)[:, None]], 1)
    _, loss = joint.logits_and_loss(given.query, items, torch.zeros(B, 2))
    alone = joint.ranker.enriched(given.query, given.item[:, None], torch.zeros(B, 1))
    exposed, _ = exposures.before(
        alone.user_rows[:, None, :, None], alone.item_rows[:, :, None, :], torch.tensor(10**9)
    )
    torch.testing.assert_close(loss, pair_exposure_loss(alone.matching, exposed))
