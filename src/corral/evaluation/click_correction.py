"""fit_click_correction: the weights of a ``HeldOutCorrection`` by logistic regression on validation labels.

Shape letters: n events, E inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from corral.evaluation.click_metrics import auc
from corral.evaluation.correction import Correction, least_loss


@dataclass(frozen=True)
class _Events:
    """Logits [n], standardised inputs [n, E] and labels [n], float64."""

    logits: Tensor
    inputs: Tensor
    label: Tensor

    def of(self, chosen: Tensor) -> _Events:
        """Those with True [n]."""
        return _Events(self.logits[chosen], self.inputs[chosen], self.label[chosen])

    def corrected(self, scale: Tensor, weight: Tensor) -> Tensor:
        """[n]."""
        return scale * self.logits + self.inputs @ weight

    def losses(self, scale: Tensor, weight: Tensor, level: Tensor) -> Tensor:
        """Log loss of each label [n]."""
        logits = self.corrected(scale, weight) + level
        return functional.binary_cross_entropy_with_logits(logits, self.label, reduction="none")

    def fitted(self, penalty: float, *, weigh: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Scale, weights and level."""
        return least_loss(lambda *fitted: self.losses(*fitted).mean(), self.inputs.shape[1], penalty, weigh=weigh)


def fit_click_correction(
    logits: np.ndarray, inputs: np.ndarray, labels: np.ndarray, users: np.ndarray, *, penalty: float = 1e-2
) -> Correction:
    """Minimises the mean log loss of sigmoid(scale * logit + weight . input + level), plus a ridge.

    The ridge is that of ``fit_correction``: penalty * (|weight * sd|^2 + (scale - 1)^2). Halves are made of users, so
    that none speaks of himself.

    Args:
        logits: of the ranker as it is, on validation events [n].
        inputs: what may be weighed [n, E].
        labels: 0 or 1 [n]; of one kind alone they say nothing, and nothing is corrected.
        users: of the events [n].
        penalty: of the ridge, > 0.
    """
    known = torch.from_numpy(np.asarray(inputs, dtype=np.float64))
    deviation = known.std(0).clamp(min=1e-6) if len(known) > 1 else known.new_ones(known.shape[1])
    # About their mean: a constant says nothing, and the level hardly moves with the weights.
    mean = known.mean(0) if len(known) else known.new_zeros(known.shape[1])
    known = (known - mean) / deviation
    given, clicked = (torch.from_numpy(np.asarray(one, dtype=np.float64)) for one in (logits, labels))
    if len(np.unique(labels)) < 2:  # every level would be too low, or too high
        one = known.new_ones(())
        return Correction(one, known.new_zeros(known.shape[1]), auc(labels, logits), auc(labels, logits), 0.0)
    events = _Events(given, known, clicked)
    half = torch.from_numpy(np.unique(users, return_inverse=True)[1] % 2 == 0)
    after, likelier = np.array(logits, dtype=np.float64), [known.new_zeros(0)]
    for some in (half, ~half):
        if some.any() and (~some).any():
            fitted, rest = events.of(some), events.of(~some)
            full, alone = fitted.fitted(penalty), fitted.fitted(penalty, weigh=False)
            after[(~some).numpy()] = rest.corrected(*full[:2]).numpy() + float(full[2])
            likelier.append(rest.losses(*alone) - rest.losses(*full))
    scale, weight, level = events.fitted(penalty)
    gain, weight = torch.cat(likelier), weight / deviation
    likely = float(gain.mean()) if len(gain) else 0.0
    before, after_halves = auc(labels, logits), auc(labels, after)
    return Correction(scale, weight, before, after_halves, likely, level=float(level - weight @ mean))
