"""LCRON-style training: the relaxation against its definition and its limit, the losses by hand, a planted world."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from corral.corr.baselines.lcron import LcronObjective, lcron_losses, log_top_mass, total_distances
from corral.corr.stages import Stages
from corral.data.batches import Batch
from corral.sampling.uniform import UniformSampler
from corral.training.fit import fit
from corral.training.optimizers import RowWiseAdam


def some(rows: int = 6, n: int = 9) -> tuple[Tensor, Tensor]:
    """Values, and which of them count; column 0 always does."""
    random = torch.Generator().manual_seed(n)
    values = torch.randn(rows, n, generator=random, dtype=torch.float64)
    valid = torch.rand(rows, n, generator=random) < 0.7
    valid[:, 0] = True
    valid[0] = True
    valid[1, 1:] = False
    return values.requires_grad_(), valid


def neural_sort(values: Tensor, temperature: float) -> Tensor:
    """The definition, for one list [n]: the relaxed permutation [n, n]."""
    n = len(values)
    distances = (values[:, None] - values[None]).abs().sum(1)
    coefficient = n + 1 - 2 * torch.arange(1, n + 1)
    return torch.softmax((coefficient[:, None] * values[None] - distances[None]) / temperature, dim=1)


def test_total_distances() -> None:
    values, valid = some()
    gap = (values[:, :, None] - values[:, None, :]).abs() * valid[:, None, :]
    torch.testing.assert_close(total_distances(values, valid), gap.sum(2) * valid)
    weight = torch.randn_like(values)
    found, wanted = (
        torch.autograd.grad((x * weight).sum(), values)[0] for x in (total_distances(values, valid), gap.sum(2) * valid)
    )
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("k", [1, 3, 9, 20])
@pytest.mark.parametrize("temperature", [0.3, 2.0, 30.0])
def test_the_mass_is_that_of_the_first_rows_of_neural_sort(k: int, temperature: float) -> None:
    values, valid = some()
    mass = log_top_mass(values, valid, k=k, temperature=temperature).exp()
    for row in range(len(values)):
        counted = valid[row]
        wanted = neural_sort(values[row, counted], temperature)[:k].sum(0).clamp(max=1.0)
        torch.testing.assert_close(mass[row, counted], wanted)
        assert float(mass[row, ~counted].detach().sum()) == 0.0


@pytest.mark.parametrize("k", [1, 4])
def test_at_low_temperature_it_is_membership_in_the_k_best(k: int) -> None:
    values, valid = some()
    mass = log_top_mass(values, valid, k=k, temperature=1e-4).exp()
    places = values.masked_fill(~valid, -torch.inf).topk(k, dim=1)
    member = torch.zeros_like(mass).scatter(1, places.indices, 1.0) * valid
    torch.testing.assert_close(mass, member, atol=1e-6, rtol=0)


def test_probabilities_and_gradients_stay_in_bounds() -> None:
    random = torch.Generator().manual_seed(0)
    for scale in (0.0, 1e-3, 1.0, 1e3):
        values = (torch.randn(20, 12, generator=random) * scale).requires_grad_()
        valid = torch.rand(20, 12, generator=random) < 0.5
        valid[:, 0] = True
        log_mass = log_top_mass(values, valid, k=4, temperature=1.0)[:, 0]
        assert bool((log_mass <= 0).all())
        assert bool(log_mass.isfinite().all())
        (gradient,) = torch.autograd.grad(log_mass.sum(), values)
        assert bool(gradient.isfinite().all())
        assert bool((gradient[~valid] == 0).all())


def test_half_precision_is_computed_in_single() -> None:
    values, valid = some()
    low = values.detach().to(torch.bfloat16)
    found = log_top_mass(low, valid, k=3, temperature=1.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, log_top_mass(low.float(), valid, k=3, temperature=1.0))


def test_losses_by_hand() -> None:
    """Two items: the relaxation is the logistic function of their difference, times two for the two distances."""
    scores, logits = torch.tensor([[0.5, 0.2]]), torch.tensor([[-0.3, 0.4]])
    hit = torch.zeros(1, 1, dtype=torch.bool)
    # row 1: coefficient 1, both distances equal: softmax(s / t)
    p = 1 / (1 + math.exp(-(0.5 - 0.2) / 0.7))
    q = 1 / (1 + math.exp(-(-0.3 - 0.4) / 0.7))
    survival, retriever, ranker = lcron_losses(
        scores, logits, hit, k_retriever=1, k_ranker=1, temperature=0.7, rejection=2.0
    )
    assert float(retriever) == pytest.approx(-math.log(p), rel=1e-5)
    assert float(ranker) == pytest.approx(-math.log(q), rel=1e-5)
    assert float(survival) == pytest.approx(-math.log(p * q) - 2 * math.log(1 - (1 - p) * (1 - q)), rel=1e-5)


def test_only_rejection_joins_the_stages() -> None:
    """Without it, the retriever's gradient does not know what the ranker says."""
    scores, valid = some()
    hit = ~valid[:, 1:]

    def gradient(logits: Tensor, rejection: float) -> Tensor:
        survival, _, _ = lcron_losses(
            scores, logits, hit, k_retriever=4, k_ranker=2, temperature=9.0, rejection=rejection
        )
        return torch.autograd.grad(survival, scores)[0]

    one, other = torch.randn(6, 9, dtype=torch.float64), torch.randn(6, 9, dtype=torch.float64)
    torch.testing.assert_close(gradient(one, 0.0), gradient(other, 0.0))
    assert not torch.allclose(gradient(one, 1.0), gradient(other, 1.0))
    assert bool(gradient(one, 1.0).isfinite().all())
    assert bool((gradient(one, 1.0)[~valid] == 0).all())


def test_no_examples_no_loss() -> None:
    nothing = torch.zeros(0, 4)
    losses = lcron_losses(
        nothing,
        nothing,
        torch.zeros(0, 3, dtype=torch.bool),
        k_retriever=2,
        k_ranker=1,
        temperature=1.0,
        rejection=1.0,
    )
    assert [float(loss) for loss in losses] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "wrong", [{"k_ranker": 0}, {"k_ranker": 4}, {"k_retriever": 9}, {"temperature": 0.0}, {"rejection": -1.0}]
)
def test_wrong_settings_are_refused(stages: Stages, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LcronObjective(stages, UniformSampler(stages.catalogue), **{"num_negatives": 8, "k_retriever": 3} | wrong)


def test_the_learned_weights(stages: Stages, batch: Batch) -> None:
    objective = LcronObjective(stages, UniformSampler(stages.catalogue), num_negatives=8, k_retriever=3)
    objective.refresh()
    with torch.no_grad():
        objective.log_variances.copy_(torch.tensor([0.5, -1.0]))
    losses = objective(batch)
    expected = losses["survival"] + math.exp(-0.5) * losses["retriever"] + 0.5 + math.exp(1.0) * losses["ranker"] - 1.0
    torch.testing.assert_close(losses["total"], expected)
    losses["total"].backward()
    gradient = torch.stack([1 - math.exp(-0.5) * losses["retriever"], 1 - math.exp(1.0) * losses["ranker"]])
    torch.testing.assert_close(objective.log_variances.grad, gradient)
    for stage in (stages.retriever, stages.ranker):
        assert any(p.grad is not None and bool(p.grad.any()) for p in stage.parameters())


@pytest.mark.parametrize("rejection", [0.0, 1.0])
def test_a_planted_world_is_learned(planted: Callable[[], Any], rejection: float) -> None:
    world = planted()
    objective = LcronObjective(
        world.stages, UniformSampler(world.stages.catalogue), num_negatives=30, k_retriever=5, rejection=rejection
    )
    fit(objective, world.loader, RowWiseAdam(objective, learning_rate=0.02), epochs=8)
    assert bool((objective.log_variances != 0).all())
    retriever, ranker, system = world.shares()
    assert retriever > 0.6
    assert ranker > 0.8
    assert system > 0.85
