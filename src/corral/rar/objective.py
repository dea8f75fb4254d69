"""RAR's joint loss: clicks and exposures.

L = alpha BCE(y, y_hat) + (1 - alpha) BCE-with-logits(Y_ep, logits of G); RAR, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from corral.data.batches import Batch
from corral.rar.joint_ranker import JointRanker
from corral.training.losses import click_loss


class JointObjective(nn.Module):
    """Click loss and exposure loss of a RAR ranker, and the refresh of its neighbours.

    Args:
        ranker: what learns, with its exposures and alpha.
    """

    def __init__(self, ranker: JointRanker) -> None:
        super().__init__()
        self.ranker = ranker

    def refresh(self) -> None:
        """Chooses the neighbours where it is time to."""
        self.ranker.refresh()

    def generators(self) -> Mapping[str, torch.Generator]:
        """None."""
        return {}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch: ``click``, ``exposure`` (with alpha < 1) and their weighted ``total``; nats.

        Beside them, to be logged: mean(G), mean(Y) and the share of rows with cells, see ``matched_and_exposed``.
        """
        logits, exposure = self.ranker.logits_and_loss(batch.query, batch.item[:, None])
        click = click_loss(logits[:, 0], batch.label, batch.weight)
        alpha = self.ranker.alpha
        if alpha == 1.0:
            return {"total": click}
        total = alpha * click + (1.0 - alpha) * exposure
        return {"total": total, "click": click, "exposure": exposure, **self.ranker.told}
