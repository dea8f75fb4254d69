"""RankFlow: the tutor's loss by hand, who moves in which epoch, resuming, and a planted world."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from corral.corr.baselines.rankflow import RankFlowObjective, top_items, tutor_loss
from corral.corr.stages import Stages
from corral.data.batches import Batch
from corral.ranking.ctr.din import DIN
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker
from corral.sampling.in_batch import InBatchSampler
from corral.sampling.uniform import UniformSampler
from corral.training.fit import FitState, fit
from corral.training.losses import sampled_softmax
from corral.training.optimizers import RowWiseAdam


def test_tutor_loss_by_hand() -> None:
    scores = torch.tensor([[1.0, 2.0, 4.0], [0.0, 1.0, 5.0]])
    logits = torch.tensor([[3.0, 0.0, 1.0], [2.0, 7.0, 6.0]])
    squares = (4 + 4 + 9 + 4 + 36 + 1) / 6
    # the ranker's best two: 0 and 2, then 1 and 2
    gaps = [(1 + 4) / 2 - 2, (1 + 5) / 2 - 0]
    order = sum(math.log1p(math.exp(-gap)) for gap in gaps) / 2
    for a in (0.0, 0.3, 1.0):
        loss = tutor_loss(scores, logits, a=a, best=2)
        assert float(loss) == pytest.approx((1 - a) * squares + a * order, rel=1e-6)


def test_the_tutor_does_not_move() -> None:
    scores, logits = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    to_scores, to_logits = torch.autograd.grad(
        tutor_loss(scores, logits, a=0.5, best=2), (scores, logits), allow_unused=True
    )
    assert to_logits is None
    assert bool((to_scores != 0).all())
    assert float(tutor_loss(scores[:0].detach(), logits[:0], a=0.5, best=2)) == 0.0


def test_tutor_loss_of_half_precision() -> None:
    """Computed in float32, as of these very numbers."""
    scores, logits = torch.randn(4, 6).bfloat16(), torch.randn(4, 6).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = tutor_loss(scores, logits, a=0.5, best=2)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, tutor_loss(scores.float(), logits.float(), a=0.5, best=2))


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_top_items_are_the_best(chunk: int) -> None:
    queries, vectors, catalogue = torch.randn(10, 4), torch.randn(30, 4), torch.randperm(30) + 2
    found = top_items(queries, vectors, catalogue, 7, chunk=chunk)
    order = (queries @ vectors.T).argsort(dim=1, descending=True)[:, :7]
    assert torch.equal(found, catalogue[order])
    assert top_items(queries[:0], vectors, catalogue, 7).shape == (0, 7)


def test_top_items_are_exact_in_half_precision_too() -> None:
    queries, vectors = torch.randn(50, 16), torch.randn(400, 16)
    with torch.autocast("cpu", torch.bfloat16):
        found = top_items(queries, vectors, torch.arange(400), 20)
    assert torch.equal(found, (queries @ vectors.T).topk(20).indices)


def rankflow(stages: Stages, **keywords: Any) -> RankFlowObjective:
    return RankFlowObjective(
        stages, UniformSampler(stages.catalogue), **{"num_negatives": 8, "num_candidates": 5, "best": 2} | keywords
    )


def moved(objective: RankFlowObjective, batch: Batch) -> tuple[bool, bool]:
    """Whether a backward pass gives the retriever and the ranker a gradient."""
    objective.zero_grad(set_to_none=True)
    objective(batch)["total"].backward()
    stages = objective.stages
    first, second = (
        any(p.grad is not None and bool(p.grad.any()) for p in stage.parameters())
        for stage in (stages.retriever, stages.ranker)
    )
    return first, second


def test_epochs_alternate(stages: Stages, batch: Batch) -> None:
    objective = rankflow(stages)
    objective.train()
    for epoch in range(4):
        objective.refresh()
        tutoring = epoch % 2 == 1
        assert objective.tutoring is tutoring
        assert set(objective(batch)) == ({"total", "tutor"} if tutoring else {"total", "retriever", "ranker"})
        assert moved(objective, batch) == (True, not tutoring)
        assert stages.ranker.training


def test_the_losses_are_what_they_say(stages: Stages, batch: Batch) -> None:
    objective = rankflow(stages)
    stages.eval()
    objective.refresh()
    query_vectors = stages.encode(batch).queries
    best = top_items(query_vectors, stages.item_vectors(), stages.catalogue, 5)
    scores, logits = stages.score(stages.encode(batch), torch.cat([batch.item[:, None], best], 1))
    hit = best == batch.item[:, None]
    losses = objective(batch)
    expected = sampled_softmax(logits[:, 0], logits[:, 1:], 0.0, torch.zeros(6, 5), hit)
    torch.testing.assert_close(losses["ranker"], expected)
    torch.testing.assert_close(losses["total"], losses["retriever"] + losses["ranker"])
    objective.refresh()
    expected = tutor_loss(scores[:, 1:], logits[:, 1:], a=0.5, best=2)
    torch.testing.assert_close(objective(batch)["total"], expected)


def test_no_loss_in_half_precision(stages: Stages, batch: Batch) -> None:
    fields = Fields(7, 12, field_size=8)
    stages.ranker = FieldRanker(fields, DIN(8, fields.num_context_fields, fields.num_item_fields, hidden=(16,)))
    objective = rankflow(stages)
    for _ in range(2):
        objective.refresh()
        with torch.autocast("cpu", torch.bfloat16):
            scores, logits = stages.score(stages.encode(batch), batch.item[:, None])
            assert (scores.dtype, logits.dtype) == (torch.float32, torch.bfloat16)
            losses = objective(batch)
        assert {name: loss.dtype for name, loss in losses.items()} == dict.fromkeys(losses, torch.float32)


def test_in_batch_negatives_are_those_of_the_batches(stages: Stages, batch: Batch) -> None:
    sampler = InBatchSampler(stages.catalogue, window=20)
    objective = RankFlowObjective(stages, sampler, num_negatives=3, num_candidates=6, best=2)
    objective.refresh()
    objective.eval()(batch)
    assert int(sampler.seen) == 0
    objective.train()(batch)
    assert sampler.catalogue.items[sampler.events[: int(sampler.seen)]].tolist() == batch.item.tolist()


def test_the_tutor_speaks_without_dropout(stages: Stages, batch: Batch) -> None:
    objective = rankflow(stages, a=0.0)
    objective.refresh()
    objective.refresh()
    stages.eval()
    clean = float(objective(batch)["total"].detach())
    objective.train()  # the ranker has dropout, the retriever none
    assert float(objective(batch)["total"].detach()) == pytest.approx(clean, rel=1e-6)


@pytest.mark.parametrize("wrong", [{"num_candidates": 11}, {"best": 0}, {"best": 5}, {"a": 1.5}])
def test_wrong_settings_are_refused(stages: Stages, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        rankflow(stages, **wrong).refresh()


def test_resuming_goes_on_with_the_same_kind_of_epoch(planted: Callable[..., Any], tmp_path: Path) -> None:
    """Killed in the middle of a tutor epoch: the same weights as without."""

    def train(directory: Path | None, stop_at: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(5)
        objective = rankflow(world.stages, num_candidates=20)
        objective.load_state_dict(start)

        def stop(state: FitState) -> None:
            if state.step == stop_at:
                raise KeyboardInterrupt

        try:
            fit(
                objective,
                world.loader,
                RowWiseAdam(objective, learning_rate=0.02),
                epochs=3,
                directory=directory,
                checkpoint_seconds=0.0,
                on_step=stop,
            )
        except KeyboardInterrupt:
            assert objective.tutoring
        return {name: value.clone() for name, value in objective.state_dict().items()}

    world = planted(batch_size=512)
    start = {name: value.clone() for name, value in rankflow(world.stages).state_dict().items()}
    per_epoch = world.loader.batches_per_epoch()
    whole = train(None, -1)
    train(tmp_path / "run", per_epoch + per_epoch // 2)
    resumed = train(tmp_path / "run", -1)
    assert int(resumed["refreshes"]) == 3
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=0, msg=name)


def test_a_planted_world_is_learned(planted: Callable[[], Any]) -> None:
    world = planted()
    objective = rankflow(world.stages, num_negatives=30, num_candidates=20, best=5)
    fit(objective, world.loader, RowWiseAdam(objective, learning_rate=0.02), epochs=8)
    retriever, ranker, system = world.shares()
    assert retriever > 0.8
    assert ranker > 0.6
    assert system > 0.85
