"""ICC: by hand, its gradients, its two extremes, and a planted world."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from corral.corr.baselines.icc import IccObjective, icc_loss, soft_gate
from corral.corr.stages import Stages
from corral.data.batches import Batch
from corral.sampling.uniform import UniformSampler
from corral.training.fit import fit
from corral.training.losses import sampled_softmax
from corral.training.optimizers import RowWiseAdam


def some(examples: int = 5, draws: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores, logits, log Q and hits."""
    random = torch.Generator().manual_seed(3)
    scores, logits, log_q = (torch.randn(examples, 1 + draws, generator=random, dtype=torch.float64) for _ in range(3))
    hit = torch.rand(examples, draws, generator=random) < 0.3
    return scores.requires_grad_(), logits.requires_grad_(), log_q - 3, hit


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_by_hand() -> None:
    scores, logits = torch.tensor([[1.0, 3.0, 0.0, 9.0]]), torch.tensor([[2.0, -1.0, 4.0, 7.0]])
    log_q = torch.tensor([[-1.0, -2.0, -0.5, -1.0]])
    hit = torch.tensor([[False, False, True]])  # the draw with score 9 takes no place among the k
    loss = icc_loss(scores, logits, hit, log_q=log_q, k=2, temperature=0.5)
    gates = [sigmoid((s - 1.0) / 0.5) for s in (1.0, 3.0, 0.0)]  # the second largest score is 1
    chain = [(1 - g) * s + g * r for g, s, r in zip(gates, (1.0, 3.0, 0.0), (2.0, -1.0, 4.0), strict=True)]
    corrected = [c - q for c, q in zip(chain, (-1.0, -2.0, -0.5), strict=True)]
    assert float(loss) == pytest.approx(math.log(sum(map(math.exp, corrected))) - corrected[0], rel=1e-6)


def test_of_half_precision() -> None:
    """Gate and chain are computed in float32, as of these very numbers."""
    scores, logits, log_q, hit = some()
    scores, logits = scores.detach().bfloat16(), logits.detach().bfloat16()

    def loss(scores: Tensor, logits: Tensor) -> Tensor:
        return icc_loss(scores, logits, hit, log_q=log_q.float(), k=3, temperature=0.7)

    torch.testing.assert_close(loss(scores, logits), loss(scores.float(), logits.float()))


def test_where_all_survive_it_is_the_rankers_softmax() -> None:
    scores, logits, log_q, hit = some()
    hit[:, 0] = True  # so that fewer than k = 7 items are left: the bar is below all of them
    loss = icc_loss(scores, logits, hit, log_q=log_q, k=7, temperature=1.0)
    torch.testing.assert_close(loss, sampled_softmax(logits[:, 0], logits[:, 1:], log_q[:, 0], log_q[:, 1:], hit))
    to_scores, to_logits = torch.autograd.grad(loss, (scores, logits))
    assert float(to_scores.abs().max()) == 0.0
    assert float(to_logits.abs().max()) > 0.0


def test_where_none_survive_it_is_the_retrievers_softmax() -> None:
    scores, logits, log_q, hit = some()
    # One more draw sets a bar that nobody reaches; its log Q takes it out of the softmax.
    scores_and_bar = torch.cat([scores, scores.new_full((5, 1), 1e4)], 1)
    logits_and_bar = torch.cat([logits, logits.new_zeros(5, 1)], 1)
    log_q_and_bar = torch.cat([log_q, log_q.new_full((5, 1), 1e6)], 1)
    hit_and_bar = torch.cat([hit, hit.new_zeros(5, 1)], 1)
    loss = icc_loss(scores_and_bar, logits_and_bar, hit_and_bar, log_q=log_q_and_bar, k=1, temperature=1.0)
    torch.testing.assert_close(loss, sampled_softmax(scores[:, 0], scores[:, 1:], log_q[:, 0], log_q[:, 1:], hit))


def test_no_gradient_through_the_bar() -> None:
    scores = torch.tensor([[0.3, 1.0, -0.5, 2.0]], dtype=torch.float64, requires_grad=True)
    gate = soft_gate(scores, torch.zeros(1, 3, dtype=torch.bool), k=2, temperature=0.7)
    jacobian = torch.stack([torch.autograd.grad(gate[0, i], scores, retain_graph=True)[0][0] for i in range(4)])
    g = gate[0].detach()
    torch.testing.assert_close(jacobian, torch.diag(g * (1 - g) / 0.7))  # column 1 is the bar: no other row moves it


def test_gradients_reach_both_stages_and_not_the_hits() -> None:
    scores, logits, log_q, hit = some()
    loss = icc_loss(scores, logits, hit, log_q=log_q, k=3, temperature=0.5)
    for gradient in torch.autograd.grad(loss, (scores, logits)):
        assert bool((gradient[:, 1:][hit] == 0).all())
        assert bool((gradient[:, 1:][~hit] != 0).all())


def test_no_examples_no_loss() -> None:
    nothing, hit = torch.zeros(0, 4), torch.zeros(0, 3, dtype=torch.bool)
    assert float(icc_loss(nothing, nothing, hit, log_q=nothing, k=2, temperature=1.0)) == 0.0


@pytest.mark.parametrize("wrong", [{"k": 0}, {"k": 12}, {"temperature": 0.0}])
def test_wrong_settings_are_refused(stages: Stages, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        IccObjective(stages, UniformSampler(stages.catalogue), num_negatives=10, **wrong)


def test_the_objective_draws_anew_and_trains_both_stages(stages: Stages, batch: Batch) -> None:
    objective = IccObjective(stages, UniformSampler(stages.catalogue), num_negatives=8, k=3)
    objective.refresh()
    stages.eval()  # no dropout: only the draws differ
    first = objective(batch)["total"]
    assert float(first.detach()) != float(objective(batch)["total"].detach())
    first.backward()
    for stage in (stages.retriever, stages.ranker):
        assert any(p.grad is not None and bool(p.grad.any()) for p in stage.parameters())
    objective.generators()["negatives"].manual_seed(0)
    assert float(objective(batch)["total"].detach()) == float(first.detach())


def test_a_planted_world_is_learned(planted: Callable[[], Any]) -> None:
    world = planted()
    assert max(world.shares()) < 0.25
    objective = IccObjective(world.stages, UniformSampler(world.stages.catalogue), num_negatives=30, k=5)
    fit(objective, world.loader, RowWiseAdam(objective, learning_rate=0.02), epochs=8)
    retriever, ranker, system = world.shares()
    assert retriever > 0.4
    assert ranker > 0.8
    assert system > 0.85
