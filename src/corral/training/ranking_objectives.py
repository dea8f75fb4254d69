"""Objectives that train a ranker by itself: against sampled negatives, or on click labels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.data.batches import Batch
from corral.sampling.sampler import Sampler
from corral.training.losses import sampled_softmax


class _NegativesObjective(nn.Module):
    """The clicked item and N sampled ones go through the ranker together; the query is encoded once."""

    def __init__(self, ranker: nn.Module, sampler: Sampler, *, num_negatives: int = 20, seed: int = 0) -> None:
        super().__init__()
        self.ranker, self.sampler, self.num_negatives = ranker, sampler, num_negatives
        self.generator = torch.Generator().manual_seed(seed)

    def refresh(self) -> None:
        """The samplers used here do not depend on the ranker."""

    def generators(self) -> Mapping[str, torch.Generator]:
        """The sampler's."""
        return {"negatives": self.generator}

    def logits(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits of the clicked item and of the draws [B, 1 + N], log Q of both [B, 1] and [B, N], and which
        draws hit the clicked item [B, N]."""
        # Proposals that need a query belong to a retriever (see corr/); these need its length only.
        query_vectors = batch.query.user[:, None].float()
        drawn = self.sampler.sample(query_vectors, self.num_negatives, self.generator)
        own = batch.item[:, None]
        logits = self.ranker(batch.query, torch.cat([own, drawn.items], 1))
        return logits, self.sampler.log_q(query_vectors, own), drawn.log_q, drawn.items == own


class SoftmaxRankingObjective(_NegativesObjective):
    """Sampled softmax with the log-Q correction over the clicked item and N draws."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of a batch."""
        logits, log_q_own, log_q, hit = self.logits(batch)
        return {"total": sampled_softmax(logits[:, 0], logits[:, 1:], log_q_own[:, 0], log_q, hit)}


class BinaryRankingObjective(_NegativesObjective):
    """Log loss: label 1 for the clicked item, 0 for each draw; mean over all pairs."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of a batch."""
        logits, _, _, hit = self.logits(batch)
        label = torch.zeros_like(logits)
        label[:, 0] = 1.0
        loss = functional.binary_cross_entropy_with_logits(logits, label, reduction="none")
        weight = torch.cat([torch.ones_like(logits[:, :1]), (~hit).to(logits.dtype)], 1)
        return {"total": (loss * weight).sum() / weight.sum()}


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
        return {"total": functional.binary_cross_entropy_with_logits(logits, batch.label)}
