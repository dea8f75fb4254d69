"""How a weight changes over the steps of a training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ramp:
    """0 for the first ``start`` steps, then linear to ``value`` over ``steps`` steps, then constant.

    Attributes:
        value: in the end.
        start: steps at 0.
        steps: steps of the climb; 0: at once.
    """

    value: float
    start: int = 0
    steps: int = 0

    def __call__(self, step: int) -> float:
        """The weight at a step, from 0."""
        if step < self.start:
            return 0.0
        if step >= self.start + self.steps:
            return self.value
        return self.value * (step - self.start) / self.steps
