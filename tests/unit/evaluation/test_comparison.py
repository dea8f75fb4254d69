"""What is said of a system's seeds."""

from __future__ import annotations

import math

import pytest

from corral.evaluation.comparison import mean_and_deviation
from corral.report.number_text import mean_and_sd


def test_mean_and_deviation_over_seeds() -> None:
    assert mean_and_deviation([0.1, 0.3]) == (pytest.approx(0.2), pytest.approx(math.sqrt(0.02)))
    assert mean_and_deviation([0.1]) == (0.1, None)
    assert mean_and_deviation([0.1, math.nan]) == (None, None)


def test_as_text() -> None:
    assert mean_and_sd(0.2, 0.01) == "0.2000 ± 0.0100"
    assert mean_and_sd(0.2, None) == "0.2000"
    assert mean_and_sd(None, None) == mean_and_sd(math.nan, None)
