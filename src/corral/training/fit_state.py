"""FitState: where a training stands; all of it is in every checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class FitState:
    """Where training stands.

    Attributes:
        epoch: current epoch, from 0.
        batch: batches of it already trained on.
        step: batches in all.
        sums: sum of each loss over the epoch so far.
        counts: over how many batches: a loss may begin, or end, within an epoch.
        seconds: time spent on the epoch so far, also before an interruption (what it threw away not counted).
        best: best value of the watched metric.
        best_epoch: the epoch it belongs to, -1 before the first.
        records: what was logged, one mapping an epoch.
        finished: training has ended (all epochs, or patience).
        later: the watched metric with one part's weights of the last epoch and the best epoch's in all the rest; None:
            not tried. Higher than ``best``: that part kept them.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    best: float = -math.inf
    best_epoch: int = -1
    records: list[dict[str, float]] = field(default_factory=list)
    finished: bool = False
    later: float | None = None

    def __post_init__(self) -> None:
        if not self.counts:  # a checkpoint that was saved before they were counted
            self.counts = dict.fromkeys(self.sums, self.batch)
