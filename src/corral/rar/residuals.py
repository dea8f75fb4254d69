"""What an event says beyond its user's habit: its label less the user's own earlier rate."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from corral.data.running_sums import RunningSums, whole


def residuals(user: np.ndarray, time: np.ndarray, label: np.ndarray, *, strength: float = 5.0) -> np.ndarray:
    """label - the user's own rate before the event [n], float32.

    The rate is smoothed towards the rate of all events with an earlier time: nothing later, nothing of the same time,
    and not the event itself. Where all labels are the same (a log of clicks alone) nothing would be left; the labels
    themselves are given.

    Args:
        user, time: of the events [n].
        label: in [0, 1] [n].
        strength: how many events the prior is worth.
    """
    if len(label) == 0 or np.min(label) == np.max(label):
        return np.asarray(label, dtype=np.float32)
    labels = torch.from_numpy(np.asarray(label, dtype=np.float64))
    times, ranks = np.unique(time, return_inverse=True)
    moment = torch.from_numpy(ranks.astype(np.int64))

    def earlier(entity: Tensor) -> tuple[Tensor, Tensor]:
        """How many events an event's entity had before it, and the sum of their labels."""
        count = int(entity.max()) + 1
        sums = RunningSums(entity, moment, whole(labels)[:, None], num_entities=count, num_moments=len(times))
        first, stop = sums.before(entity, moment)
        return stop - first, sums.total(first, stop)[:, 0]

    seen, clicks = earlier(torch.zeros_like(moment))
    own, liked = earlier(torch.from_numpy(np.asarray(user).astype(np.int64)))
    prior = (clicks + 1.0) / (seen + 2.0)
    return (labels - (liked + strength * prior) / (own + strength)).float().numpy()
