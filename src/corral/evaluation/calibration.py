"""Calibration of the ranker's logits for ``predict``: Platt scaling, fitted on validation labels.

Source: Platt, Probabilistic outputs for support vector machines, 1999; the targets kept off 0 and 1 as there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Calibration:
    """probability = sigmoid(slope x logit + intercept); the identity where there were no click labels.

    Attributes:
        slope: at least 0: calibration never turns the order around.
        intercept: in logits.
        n_labels: how many labels it was fitted on; 0 = not fitted.
    """

    slope: float = 1.0
    intercept: float = 0.0
    n_labels: int = 0

    @property
    def output(self) -> str:
        """What calling gives: "probability" where labels were there, else "logit"."""
        return "probability" if self.n_labels else "logit"

    def __call__(self, logits: Tensor) -> Tensor:
        """Probabilities, float64, or the logits themselves where nothing was fitted; same shape."""
        if not self.n_labels:
            return logits
        return torch.sigmoid(self.slope * logits.double() + self.intercept)


def fit_calibration(logits: np.ndarray, labels: np.ndarray, max_steps: int = 100) -> Calibration:
    """Slope and intercept of highest likelihood, by damped Newton steps in float64.

    Labels are smoothed to (clicks + 1) / (clicks + 2) and 1 / (non-clicks + 2), so that labels which a
    threshold separates have a finite answer. Logits that are constant, or that order the labels backwards,
    get slope 0: everybody the click rate.

    Args:
        logits: the ranker's, of validation rows [n].
        labels: 0 or 1 [n].
        max_steps: at most this many Newton steps (5 to 10 are usual).

    Raises:
        ValueError: shapes differ, a logit is not finite, a label is not 0 or 1, or only one label is there.
    """
    x, y = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"fit_calibration: logits {x.shape} and labels {y.shape}; need the same [n]")
    if not np.isin(y, (0.0, 1.0)).all() or not np.isfinite(x).all():
        raise ValueError("fit_calibration: labels must be 0 or 1 and logits finite")
    clicks = y.sum()
    if clicks == 0 or clicks == len(y):
        raise ValueError(f"fit_calibration: {int(clicks)} clicks in {len(y)} labels; both labels are needed")
    target = np.where(y == 1, (clicks + 1) / (clicks + 2), 1 / (len(y) - clicks + 2))
    rate = target.mean()
    prior = float(np.log(rate / (1 - rate)))
    centre, scale = x.mean(), x.std()
    # Rounding noise of a constant is no signal.
    if scale <= 1e-12 * max(1.0, float(np.abs(x).max())):
        return Calibration(0.0, prior, len(y))
    z = (x - centre) / scale

    def loss(at: np.ndarray) -> float:
        score = at[0] * z + at[1]
        return float(np.mean(np.logaddexp(0.0, score) - target * score))

    point, current = np.array([0.0, prior]), loss(np.array([0.0, prior]))
    for _ in range(max_steps):
        p = 1.0 / (1.0 + np.exp(-np.clip(point[0] * z + point[1], -700, 700)))
        slope = np.array([np.mean((p - target) * z), np.mean(p - target)])
        weight = np.maximum(p * (1 - p), 1e-12)
        cross = np.mean(weight * z)
        curvature = np.array([[np.mean(weight * z * z), cross], [cross, np.mean(weight)]])
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), slope)
        size = 1.0
        while size > 1e-10 and loss(point - size * step) > current:
            size /= 2.0
        point = point - size * step
        improved, current = current - loss(point), loss(point)
        if np.abs(slope).max() < 1e-12 or abs(improved) < 1e-16:
            break
    if point[0] <= 0.0:
        return Calibration(0.0, prior, len(y))
    return Calibration(float(point[0] / scale), float(point[1] - point[0] * centre / scale), len(y))
