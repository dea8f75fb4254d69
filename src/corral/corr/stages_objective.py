"""What all objectives over both stages share: the stages, a sampler, and the generator of its draws."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from corral.corr.stages import LearnsBeside, Scored, Stages
from corral.sampling.sampler import Sampler


class StagesObjective(nn.Module):
    """The parts of an ``Objective`` that do not depend on its losses.

    Args:
        stages: the retriever and the ranker.
        sampler: the proposal.
        num_negatives: N, draws per example.
        seed: of the draws.
    """

    def __init__(self, stages: Stages, sampler: Sampler, *, num_negatives: int, seed: int) -> None:
        super().__init__()
        self.stages, self.sampler, self.num_negatives = stages, sampler, num_negatives
        self.generator = torch.Generator().manual_seed(seed)

    def refresh(self) -> None:
        """Chooses the ranker's neighbours anew, where it has some; gives the sampler the current item vectors."""
        if isinstance(self.stages.ranker, LearnsBeside):
            self.stages.ranker.refresh()
        self.sampler.refresh(self.stages.item_vectors())

    def ranker_loss(self, clicks: Tensor, both: Scored) -> Tensor:
        """alpha ``clicks`` + (1 - alpha) the loss of the ranker's own task; without one, ``clicks``."""
        if both.beside is None:
            return clicks
        assert isinstance(self.stages.ranker, LearnsBeside)
        alpha = self.stages.ranker.alpha
        return alpha * clicks + (1.0 - alpha) * both.beside

    def generators(self) -> Mapping[str, torch.Generator]:
        """Those of the draws and of the choice of positions."""
        return {"negatives": self.generator, "positions": self.stages.generator}
