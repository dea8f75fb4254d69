"""ScaledObjective: any objective on this worker's share of the batch; its numbers are the whole batch's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from corral.data.whole_batch import in_shares
from corral.scale.global_draws import GlobalDraws
from corral.scale.workers import Workers
from corral.training.objective import Objective, renew


class ScaledObjective(nn.Module):
    """An ``Objective``: losses are those of the whole batch, their gradient this worker's part of it.

    Args:
        objective: its tables, sampler and softmax are sharded.
        workers: who share the batch.
    """

    def __init__(self, objective: nn.Module, workers: Workers) -> None:
        super().__init__()
        self.objective, self._workers = objective, workers

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """The losses, the same on every worker."""
        with in_shares(self._workers), GlobalDraws(self._workers):
            parts = self.objective(batch)
        whole = self._workers.sum(torch.stack([part.detach().double() for part in parts.values()]))
        values = zip(parts.items(), whole, strict=True)
        return {name: part + (value - part.detach()).to(part.dtype) for (name, part), value in values}

    def refresh(self) -> None:
        """As the objective; what it makes of all users or items, each worker makes of a share of them."""
        with in_shares(self._workers):
            cast(Objective, self.objective).refresh()

    def renew(self) -> None:
        """As the objective's parts, each worker a share of it."""
        with in_shares(self._workers):
            renew(self.objective)

    def generators(self) -> Mapping[str, torch.Generator]:
        """The objective's, in the same state on every worker."""
        return cast(Objective, self.objective).generators()
