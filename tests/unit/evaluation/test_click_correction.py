"""The held-out correction of click models: against another solver, what it puts right, what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from corral.evaluation.click_correction import fit_click_correction
from corral.evaluation.click_metrics import auc

PENALTY = 0.01
World = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def world(known: float, seed: int = 0, n: int = 4_000) -> World:
    """Logits [n] that know a part of a taste, inputs [n, 3] of which the first knows it, labels and users [n]."""
    random = np.random.default_rng(seed)
    taste = random.normal(size=n)
    inputs = np.stack([50 * taste + 300, random.normal(size=n), np.full(n, 7.0)], 1)  # the last says nothing at all
    labels = (random.random(n) < 1 / (1 + np.exp(1 - 2 * taste))).astype(np.float32)
    return known * taste + 0.3 * random.normal(size=n), inputs, labels, random.integers(0, 200, n)


def test_weights_minimise_the_objective_as_another_solver_sees_it() -> None:
    logits, inputs, labels, users = world(0.5)
    found = fit_click_correction(logits, inputs, labels, users, penalty=PENALTY)
    deviation = inputs.std(0, ddof=1).clip(1e-6)

    def loss(p: np.ndarray) -> float:
        values = p[0] * logits + (inputs / deviation) @ np.append(p[1:3], 0.0) + p[3]
        losses = np.logaddexp(0, values) - labels * values
        return float(losses.mean()) + PENALTY * float((p[1:3] ** 2).sum() + (p[0] - 1) ** 2)

    best = minimize(loss, np.array([1.0, 0, 0, 0]), method="BFGS")
    np.testing.assert_allclose(float(found.scale), best.x[0], atol=2e-3)
    np.testing.assert_allclose((found.weight.numpy() * deviation)[:2], best.x[1:3], atol=2e-3)
    assert abs(float(found.weight[2])) < 1e-6, "a constant column carries no weight"


def test_what_the_logits_miss_is_put_right_on_events_of_others_too() -> None:
    logits, inputs, labels, users = world(0.2)
    found = fit_click_correction(logits, inputs, labels, users)
    assert found.helps
    assert found.likelier > 0.05
    assert found.before == pytest.approx(auc(labels, logits))
    assert found.after > found.before + 0.05
    late, read, clicked, _ = world(0.2, seed=1)
    corrected = float(found.scale) * late + read @ found.weight.numpy() + found.level
    assert np.mean(1 / (1 + np.exp(-corrected))) == pytest.approx(clicked.mean(), abs=0.02), "probabilities"
    assert auc(clicked, corrected) > auc(clicked, late) + 0.05


def test_noise_does_not_help() -> None:
    """Logits that know all there is, at the right scale and a wrong level: nothing is left for the inputs."""
    logits, inputs, labels, users = world(2.0, n=400)
    inputs[:, 0] = np.random.default_rng(3).normal(size=400)
    found = fit_click_correction(logits + 3, inputs, labels, users, penalty=1e-4)
    assert not found.helps
    assert found.after < found.before + 0.01


def test_a_wrong_level_or_scale_is_no_merit_of_the_weights() -> None:
    logits, inputs, labels, users = world(2.0)
    found = fit_click_correction(0.2 * logits - 4, inputs[:, 1:], labels, users)
    assert abs(found.likelier) < 1e-3


def test_one_user_alone_says_nothing() -> None:
    logits, inputs, labels, _ = world(0.2, n=50)
    found = fit_click_correction(logits, inputs, labels, np.zeros(50, dtype=np.int64))
    assert not found.helps


@pytest.mark.parametrize("label", [0, 1])
def test_labels_of_one_kind_correct_nothing(label: int) -> None:
    random = np.random.default_rng(0)
    users = random.integers(0, 40, 300)
    found = fit_click_correction(random.normal(size=300), random.normal(size=(300, 3)), np.full(300, label), users)
    assert not found.helps
    assert (float(found.scale), float(found.level)) == (1.0, 0.0)
    assert not found.weight.any()
