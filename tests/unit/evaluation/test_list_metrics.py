"""Coverage, Gini, novelty, popularity bias and item groups by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from corral.evaluation.list_metrics import (
    ListStatistics,
    coverage,
    gini,
    popularity_groups,
    popularity_percentile,
    self_information,
)

COUNTS = np.array([0, 0, 7, 3, 3, 0, 99])
CATALOGUE = np.array([False, False, True, True, True, True, False])


def test_self_information_and_percentile() -> None:
    bits = self_information(COUNTS, CATALOGUE)
    np.testing.assert_allclose(bits[2:6], [-math.log2(c / 17) for c in (8, 4, 4, 1)])
    percentile = popularity_percentile(COUNTS, CATALOGUE)
    np.testing.assert_allclose(percentile[2:6], [7 / 8, 4 / 8, 4 / 8, 1 / 8])
    assert np.isnan(bits[[0, 1, 6]]).all()
    assert np.isnan(percentile[[0, 1, 6]]).all()


def test_gini_and_coverage() -> None:
    assert gini(np.array([5, 5, 5, 5])) == pytest.approx(0.0)
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(3 / 4)
    assert math.isnan(gini(np.zeros(3)))
    assert coverage(np.array([0, 1, 4, 0])) == 0.5
    values = np.random.default_rng(0).integers(0, 50, 100)
    slow = np.abs(values[:, None] - values[None, :]).sum() / (2 * 100 * values.sum())
    assert gini(values) == pytest.approx(slow)


def test_statistics_of_lists() -> None:
    statistics = ListStatistics(COUNTS, CATALOGUE, 2)
    lists, history = torch.tensor([[2, 3, 5], [5, 0, 0], [0, 0, 0]]), torch.tensor([[0, 4], [2, 3], [2, 2]])
    got = statistics.update(lists, history)
    assert got["popularity@2"][0].item() == pytest.approx((7 / 8 + 4 / 8) / 2)
    assert got["popularity_bias@2"][1].item() == pytest.approx(1 / 8 - (7 / 8 + 4 / 8) / 2)
    assert got["novelty@2"][1].item() == pytest.approx(math.log2(17))
    assert math.isnan(got["novelty@2"][2])
    assert statistics.summary()["coverage@2"] == 3 / 4
    statistics.update(torch.tensor([[4, 2]]), torch.tensor([[0, 0]]))
    assert statistics.summary()["coverage@2"] == 1.0


def test_groups_hold_a_third_of_the_events_each() -> None:
    counts = np.array([0, 0, 30, 10, 10, 10, 5, 5, 5, 5, 5, 5, 0])
    groups = popularity_groups(counts, np.arange(13) >= 2)
    assert groups.tolist() == [0, 0, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1, 0]
    assert popularity_groups(np.zeros(4, int), np.ones(4, bool)).tolist() == [0, 0, 0, 0]
    # Equal counts, one group.
    assert set(popularity_groups(np.full(9, 4), np.ones(9, bool)).tolist()) == {3}
