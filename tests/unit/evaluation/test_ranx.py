"""The same numbers as ranx, an independent implementation (its first call compiles for over a minute)."""

from __future__ import annotations

import pytest

from corral.evaluation.evaluate import evaluate


@pytest.mark.slow
def test_equal_to_ranx(world) -> None:
    ranx = pytest.importorskip("ranx")
    targets, channel, _ = world.random(7, queries=200, items=60)
    channel.scores = channel.scores + 0.001 * (60 - channel.scores.argsort(1).argsort(1))
    got = evaluate(targets, channel, cutoffs=[5, 10, 20])
    qrels = ranx.Qrels({str(q): {str(item): 1 for item in basket} for q, basket in enumerate(targets.target_lists)})
    run = ranx.Run(
        {
            str(q): {str(column + 2): float(score) for column, score in enumerate(row.tolist())}
            for q, row in enumerate(channel.scores)
        }
    )
    names = [f"{metric}@{k}" for k in (5, 10, 20) for metric in ("ndcg", "recall", "hit_rate", "mrr")]
    expected = ranx.evaluate(qrels, run, names)
    for name in names:
        assert got.metrics[name.replace("hit_rate", "hit")] == pytest.approx(expected[name], abs=1e-9), name
