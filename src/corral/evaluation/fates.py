"""Fates: what became of every target in the funnel, and which stage is to blame"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from corral.evaluation.result import Evaluation, Stage

TOP = 10


@dataclass(frozen=True)
class Fates:
    """Of each target of an evaluation, one True among the first three [n targets each].

    Attributes:
        found: among the first ten that are served.
        lost: a candidate, but served further down.
        missed: not among the candidates.
        promoted: found, and stage 1 had it further down than the tenth place.
        demoted: not found, though stage 1 had it among its first ten.
    """

    found: np.ndarray
    lost: np.ndarray
    missed: np.ndarray
    promoted: np.ndarray
    demoted: np.ndarray


def fates(evaluation: Evaluation) -> Fates:
    """What became of the targets of an evaluation."""
    judged = evaluation.targets
    served, recalled = judged[evaluation.served.value], judged[Stage.RETRIEVER.value]
    found = (served > 0) & (served <= TOP)
    # Stage 1, served alone, may show more than it would hand on as candidates.
    missed = ~found & (judged["candidates"] == 0)
    first = (recalled > 0) & (recalled <= TOP) & ~missed
    return Fates(found, ~found & ~missed, missed, found & ~first, first & ~found)
