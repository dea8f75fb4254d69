"""The classical order of things: the retriever is finished, then the ranker is trained beside it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from corral.corr.stages import Stages
from corral.corr.stages_objective import StagesObjective
from corral.data.batches import Batch, SequenceBatch
from corral.sampling.sampler import Sampler, check_certain
from corral.training.losses import binary_loss, sampled_softmax


class TwoStageObjective(StagesObjective):
    """The ranker learns from clicks against draws; the retriever stands still, its parameters frozen here.

    With a uniform sampler the two stages are independent; with the retriever's own top k this is the usual
    two-stage training.

    Args:
        stages: a trained retriever and the ranker.
        sampler: where negatives come from.
        num_negatives: N.
        binary: log loss (label 1 for the clicked item, 0 for each draw) instead of the sampled softmax.
        certain: the clicked item is taken as present with certainty (-log N for log Q(i+)).
        noisy_scores: the retriever keeps its dropout while the ranker trains. A retriever scores the items
            that it was trained on better than it ever will again; dropout hides some of that from a ranker
            that reads its scores.
        seed: of the draws.

    Raises:
        ValueError: ``certain`` with a sampler whose log Q is not normalised.
    """

    def __init__(
        self,
        stages: Stages,
        sampler: Sampler,
        *,
        num_negatives: int = 20,
        binary: bool = False,
        certain: bool = False,
        noisy_scores: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(stages, sampler, num_negatives=num_negatives, seed=seed)
        check_certain(sampler, certain)
        self.binary, self.certain, self.noisy_scores = binary, certain, noisy_scores
        stages.retriever.requires_grad_(False)

    def train(self, mode: bool = True) -> TwoStageObjective:
        """Training mode for the ranker; for the retriever with ``noisy_scores`` only."""
        super().train(mode)
        self.stages.retriever.train(mode and self.noisy_scores)
        return self

    def forward(self, batch: Batch | SequenceBatch) -> dict[str, Tensor]:
        """The ranker's loss."""
        both = self.stages.sample(self.stages.encode(batch), self.sampler, self.num_negatives, self.generator)
        if self.binary:
            return {"total": self.ranker_loss(binary_loss(both.logits, both.hit, both.weight), both)}
        own = both.log_q[:, 0]
        if self.certain:
            own = torch.full_like(own, -math.log(self.num_negatives))
        logits, log_q = both.logits, both.log_q[:, 1:]
        loss = sampled_softmax(logits[:, 0], logits[:, 1:], own, log_q, both.hit, both.weight)
        return {"total": self.ranker_loss(loss, both)}
