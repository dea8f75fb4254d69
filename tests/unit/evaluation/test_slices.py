"""Slices add up to the whole."""

from __future__ import annotations

import numpy as np
import pytest

from corral.evaluation.evaluate import evaluate
from corral.evaluation.slices import slices


def test_parts_add_up(world) -> None:
    targets, channel, ranker = world.random(queries=100)
    targets.history[:10] = 0
    targets.history[10:20, 1:] = 0
    counts = np.r_[0, 0, np.arange(40) // 2]
    got = evaluate(targets, channel, ranker=ranker, num_candidates=15, item_counts=counts)
    parts = slices(got)
    assert {part.by for part in parts} == {"history length", "user", "item popularity"}
    for by in ("history length", "user"):
        chosen = [part for part in parts if part.by == by]
        assert sum(part.count for part in chosen) == 100
        mean = sum(part.count * part.metrics["ndcg@10"] for part in chosen) / 100
        assert mean == pytest.approx(got.metrics["ndcg@10"], abs=1e-6)
    cold = next(part for part in parts if part.name == "cold" and part.by == "user")
    assert cold.count >= 10
    items = [part for part in parts if part.by == "item popularity"]
    assert [part.name for part in items] == ["head", "mid", "tail", "cold"]
    assert sum(part.count for part in items) == len(got.targets["item"])
    rank = got.targets["ranker"]
    hits = sum(part.count * part.metrics["recall@10"] for part in items)
    assert hits == pytest.approx(((rank > 0) & (rank <= 10)).sum())


def test_without_counts_there_are_no_item_groups(world) -> None:
    targets, channel, _ = world.random()
    assert "item popularity" not in {part.by for part in slices(evaluate(targets, channel))}
