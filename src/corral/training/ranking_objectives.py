"""The objective that trains a ranker on click labels; against sampled items it learns beside a retriever (``corr``)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from corral.data.batches import Batch
from corral.training.losses import click_loss


class ClickObjective(nn.Module):
    """Log loss on the events' own labels (shown and clicked or not; rating above a mark or not)."""

    def __init__(self, ranker: nn.Module) -> None:
        super().__init__()
        self.ranker = ranker

    def refresh(self) -> None:
        """Nothing is derived from the weights."""

    def generators(self) -> Mapping[str, torch.Generator]:
        """None."""
        return {}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of a batch."""
        logits = self.ranker(batch.query, batch.item[:, None])[:, 0]
        return {"total": click_loss(logits, batch.label, batch.weight)}
