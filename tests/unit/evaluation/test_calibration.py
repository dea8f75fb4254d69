"""Platt scaling: the truth found again, order kept, degenerate labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from corral.evaluation.calibration import Calibration, fit_calibration


def test_equals_logistic_regression_on_many_labels() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(3.0, 5.0, 40_000)
    labels = (generator.random(40_000) < 1 / (1 + np.exp(-(0.4 * logits - 2.0)))).astype(int)
    got = fit_calibration(logits, labels)
    peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits[:, None], labels)
    assert got.slope == pytest.approx(float(peer.coef_[0, 0]), rel=2e-3)
    assert got.intercept == pytest.approx(float(peer.intercept_[0]), rel=2e-3)
    assert got.output == "probability"
    p = got(torch.from_numpy(logits))
    assert p.mean().item() == pytest.approx(labels.mean(), abs=1e-3)
    assert torch.equal(p.argsort(), torch.from_numpy(logits).argsort())


def test_separable_labels_have_a_finite_answer() -> None:
    logits = np.concatenate([np.full(50, -1.0), np.full(50, 1.0)])
    got = fit_calibration(logits, (logits > 0).astype(int))
    p = got(torch.tensor([-1.0, 1.0]))
    np.testing.assert_allclose(p, [1 / 52, 51 / 52], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_scale_does_not_matter(scale: float) -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(size=2000)
    labels = (generator.random(2000) < 1 / (1 + np.exp(-2 * logits))).astype(int)
    one, two = fit_calibration(logits, labels), fit_calibration(logits * scale, labels)
    assert two.slope * scale == pytest.approx(one.slope, rel=1e-6)
    assert two.intercept == pytest.approx(one.intercept, rel=1e-6)


def test_useless_logits_get_the_click_rate() -> None:
    labels = np.array([1, 0, 0, 0] * 50)
    constant = fit_calibration(np.full(200, 0.1), labels)
    backwards = fit_calibration(-labels.astype(float) + np.random.default_rng(0).normal(size=200), labels)
    for got in (constant, backwards):
        assert got.slope == 0.0
        assert got(torch.zeros(1)).item() == pytest.approx(0.25, abs=0.01)


def test_identity_without_labels() -> None:
    logits = torch.tensor([-3.0, 8.0])
    assert Calibration()(logits) is logits
    assert Calibration().output == "logit"


def test_refusals() -> None:
    with pytest.raises(ValueError, match="both labels"):
        fit_calibration(np.array([1.0, 2.0]), np.array([1, 1]))
    with pytest.raises(ValueError, match="0 or 1"):
        fit_calibration(np.array([1.0, 2.0]), np.array([1, 2]))
    with pytest.raises(ValueError, match="same"):
        fit_calibration(np.array([1.0]), np.array([1, 0]))
