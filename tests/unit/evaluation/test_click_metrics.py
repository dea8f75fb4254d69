"""Click metrics against scikit-learn, a slow reference, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from corral.evaluation.click_metrics import (
    auc,
    calibration_table,
    click_metrics,
    grouped_auc,
    log_loss,
    log_loss_of_logits,
)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 80), st.sampled_from([1, 3, 10, 10_000]))
def test_auc_and_gauc(seed: int, n: int, levels: int) -> None:
    generator = np.random.default_rng(seed)
    labels, scores = generator.integers(0, 2, n), generator.integers(0, levels, n) / levels
    users = generator.integers(0, 5, n)
    if 0 < labels.sum() < n:
        assert auc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores))
        assert auc(labels, 3 * scores - 1) == auc(labels, scores)
    else:
        assert np.isnan(auc(labels, scores))
    weighted, rows, judged = 0.0, 0, 0
    for user in np.unique(users):
        mask = users == user
        if 0 < labels[mask].sum() < mask.sum():
            weighted += sk.roc_auc_score(labels[mask], scores[mask]) * mask.sum()
            rows, judged = rows + mask.sum(), judged + 1
    got = grouped_auc(labels, scores, users)
    assert got.users == judged
    assert got.row_coverage == pytest.approx(rows / n)
    assert got.user_coverage == pytest.approx(judged / len(np.unique(users)))
    if rows:
        assert got.value == pytest.approx(weighted / rows)
    else:
        assert np.isnan(got.value)


def test_log_loss() -> None:
    generator = np.random.default_rng(0)
    labels, logits = generator.integers(0, 2, 500), generator.normal(size=500) * 3
    probabilities = 1 / (1 + np.exp(-logits))
    assert log_loss(labels, probabilities) == pytest.approx(sk.log_loss(labels, probabilities))
    assert log_loss_of_logits(labels, logits) == pytest.approx(sk.log_loss(labels, probabilities))
    assert log_loss_of_logits(np.array([1, 0]), np.array([1000.0, 1000.0])) == pytest.approx(500.0)
    assert np.isfinite(log_loss(np.array([1, 0]), np.array([0.0, 1.0])))


def test_calibration_by_hand() -> None:
    probabilities = np.array([0.9, 0.1, 0.1, 0.9])
    table = calibration_table(np.array([1, 0, 1, 1]), probabilities, bins=2)
    np.testing.assert_allclose(table.predicted, [0.1, 0.9])
    np.testing.assert_allclose(table.actual, [0.5, 1.0])
    assert table.rows.tolist() == [2, 2]
    assert table.error == pytest.approx((0.4 + 0.1) / 2)
    assert table.ratio == pytest.approx(0.5 / 0.75)


def test_calibration_of_honest_predictions_is_near_zero_and_blind_to_row_order() -> None:
    generator = np.random.default_rng(1)
    probabilities = np.round(generator.random(50_000), 2)
    labels = (generator.random(50_000) < probabilities).astype(int)
    table = calibration_table(labels, probabilities)
    assert table.error < 0.012
    assert table.ratio == pytest.approx(1.0, abs=0.02)
    assert table.rows.sum() == 50_000
    shuffled = generator.permutation(50_000)
    assert calibration_table(labels[shuffled], probabilities[shuffled]).error == pytest.approx(table.error)
    assert len(calibration_table(labels, np.full(50_000, 0.5)).rows) == 1
    assert np.isnan(calibration_table(np.zeros(3), np.full(3, 0.5)).ratio)


def test_all_by_name() -> None:
    got = click_metrics(np.array([1, 0, 1, 0]), np.array([2.0, -1.0, 0.5, 0.7]), np.array([1, 1, 2, 2]))
    assert got["auc"] == 0.75
    assert got["gauc"] == 0.5
    assert set(got) >= {"logloss", "calibration_error", "predicted_to_actual", "gauc_user_coverage"}
    extreme = click_metrics(np.array([1, 0]), np.array([1e5, -1e5]), np.array([1, 1]))
    assert extreme["logloss"] == pytest.approx(0.0)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"label 0\.5"):
        auc(np.array([0.5, 1]), np.array([1, 2]))
    with pytest.raises(ValueError, match="same"):
        auc(np.array([1, 0]), np.array([1]))
    with pytest.raises(ValueError, match="NaN"):
        auc(np.array([1, 0]), np.array([1, np.nan]))
    with pytest.raises(ValueError, match="probabilities"):
        log_loss(np.array([1, 0]), np.array([1.5, 0.2]))
    with pytest.raises(ValueError, match="users"):
        grouped_auc(np.array([1, 0]), np.array([1, 2]), np.array([1]))
