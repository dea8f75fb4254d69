"""The mixture: ends of the grid, scale, padding, and tuning."""

from __future__ import annotations

import pytest
import torch

from corral.evaluation.evaluate import evaluate
from corral.evaluation.metrics import ranked
from corral.evaluation.mixture import WEIGHTS, Mixture, simplest_best, standardised, tune_mixture


def test_standardised_over_the_candidates_only() -> None:
    scores = torch.tensor([[1.0, 3.0, 100.0], [5.0, 5.0, 5.0], [2.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    got = standardised(scores, mask)
    assert got.tolist() == [[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    # One third is not a float: a constant must not become rounding noise of size one.
    assert standardised(torch.full((1, 7), 1 / 3), torch.ones(1, 7, dtype=torch.bool)).abs().max() == 0


def test_ends_keep_each_stages_order_and_scale_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    items = torch.arange(2, 32).repeat(20, 1)
    items[:, 25:] = 0
    scores, logits = (torch.randn(20, 30, generator=generator) for _ in range(2))
    mask = items != 0
    assert torch.equal(ranked(items, Mixture(0.0)(scores, logits, mask)).items, ranked(items, scores).items)
    assert torch.equal(ranked(items, Mixture(1.0)(scores, logits, mask)).items, ranked(items, logits).items)
    fused = Mixture(0.4)(scores, logits, mask)
    assert bool(torch.isneginf(fused[:, 25:]).all())
    torch.testing.assert_close(fused, Mixture(0.4)(scores * 1000 + 5, logits * 0.01 - 3, mask), atol=1e-3, rtol=0)


def test_an_infinite_weight_is_refused() -> None:
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="mixture weight"):
            Mixture(weight)


def test_ties_go_to_the_simplest() -> None:
    assert simplest_best([0.0, 0.5, 1.0], [0.2, 0.2, 0.2]) == 0.0
    assert simplest_best([0.0, 0.4, 0.5, 1.0], [0.1, 0.2, 0.2, 0.2]) == 1.0
    assert simplest_best([0.0, 0.3, 0.4, 0.6, 1.0], [0.1, 0.2, 0.2, 0.2, 0.1]) == 0.4
    with pytest.raises(ValueError, match="no best weight"):
        simplest_best([], [])


def test_tuning_finds_what_evaluating_each_weight_finds(world) -> None:
    targets, channel, ranker = world.random(4, queries=80)
    tuning = tune_mixture(targets, channel, ranker, num_candidates=15, batch_size=32)
    assert tuning.weights == WEIGHTS
    for weight, value in zip(tuning.weights, tuning.values, strict=True):
        got = evaluate(targets, channel, ranker=ranker, num_candidates=15, mixture=Mixture(weight))
        assert value == pytest.approx(got.metrics["fused/ndcg@10"])
    assert tuning.fused_value == max(tuning.values)
    assert tuning.retriever_value == tuning.values[0]
    assert tuning.ranker_value == pytest.approx(got.metrics["ranker/ndcg@10"])
    assert tuning.n_queries == 80


def test_a_useless_ranker_is_left_out(world) -> None:
    targets, channel, ranker = world.random(1)
    ranker.logits = -channel.scores
    assert tune_mixture(targets, channel, ranker, num_candidates=20).mixture.weight < 0.5
    ranker.logits = channel.scores * 3 + 2
    assert tune_mixture(targets, channel, ranker, num_candidates=20).mixture == Mixture(0.0)


def test_refuses_an_unknown_metric(world) -> None:
    targets, channel, ranker = world.random()
    for metric in ("ndcg", "auc@10", "ndcg@0", "ndcg@ten"):
        with pytest.raises(ValueError, match="metric"):
            tune_mixture(targets, channel, ranker, metric=metric)
