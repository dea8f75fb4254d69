"""Objectives that train a retriever from clicks: full softmax, sampled softmax, in-batch softmax."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from corral.data.batches import Batch, SequenceBatch
from corral.retrieval.evaluation_mode import evaluation_mode
from corral.retrieval.retriever import CausalRetriever, Retriever, pair_scores
from corral.sampling.sampler import Sampler, check_certain
from corral.training.catalogue_softmax import CatalogueSoftmax, ItemSoftmax
from corral.training.losses import binary_loss, in_batch_softmax, sampled_softmax


def queries_and_targets(retriever: Retriever, batch: Batch | SequenceBatch) -> tuple[Tensor, Tensor]:
    """Query vectors [P, D] and the items to predict [P] of a batch.

    A :class:`SequenceBatch` gives one pair for every position of every sequence, from a single causal pass.
    """
    if isinstance(batch, Batch):
        return retriever.encode_queries(batch.query), batch.item
    positions = cast(CausalRetriever, retriever).encode_positions(batch)
    row, slot = batch.target_mask.nonzero(as_tuple=True)
    return positions[row, batch.query_index[row, slot]], batch.items[row, slot]


def target_weights(batch: Batch | SequenceBatch) -> Tensor | None:
    """Weights [P] of what ``queries_and_targets`` gives, in its order; None: all alike."""
    if batch.weight is None or isinstance(batch, Batch):
        return batch.weight
    return batch.weight[batch.target_mask]


class _RetrievalObjective(nn.Module):
    """The retriever and the catalogue (item rows [M]) that its losses run over."""

    catalogue: Tensor

    def __init__(self, retriever: nn.Module, catalogue: Tensor) -> None:
        super().__init__()
        self.retriever = retriever
        self.register_buffer("catalogue", catalogue, persistent=False)

    def refresh(self) -> None:
        """Nothing is derived from the weights."""

    def generators(self) -> Mapping[str, torch.Generator]:
        """None of its own."""
        return {}


class FullSoftmaxObjective(_RetrievalObjective):
    """Cross entropy against the whole catalogue.

    Args:
        retriever: the model.
        catalogue: item rows [M], int64.
        chunk: queries per chunk of the loss.
        label_smoothing: probability mass spread evenly over the catalogue.
        softmax: another form of the loss, over a catalogue that is not all at hand; then ``chunk`` and
            ``label_smoothing`` are its own.
    """

    def __init__(
        self,
        retriever: nn.Module,
        catalogue: Tensor,
        *,
        chunk: int = 256,
        label_smoothing: float = 0.0,
        softmax: ItemSoftmax | None = None,
    ) -> None:
        super().__init__(retriever, catalogue)
        self.softmax = softmax or CatalogueSoftmax(catalogue, chunk=chunk, label_smoothing=label_smoothing)

    def forward(self, batch: Batch | SequenceBatch) -> dict[str, Tensor]:
        """The loss of a batch."""
        retriever = cast(Retriever, self.retriever)
        queries, target = queries_and_targets(retriever, batch)
        return {"total": self.softmax(retriever, queries, target, target_weights(batch))}


class SampledSoftmaxObjective(_RetrievalObjective):
    """Sampled softmax with the log-Q correction: cost independent of the catalogue's size.

    Args:
        retriever: the model.
        catalogue: item rows [M], int64.
        sampler: where negatives come from.
        num_negatives: N draws per query.
        binary: log loss (label 1 for the clicked item, 0 for each draw) instead of the softmax.
        certain: the clicked item is taken as present with certainty (-log N for log Q(i+)).
        seed: of the draws.

    Raises:
        ValueError: ``certain`` with a sampler whose log Q is not normalised.
    """

    def __init__(
        self,
        retriever: nn.Module,
        catalogue: Tensor,
        sampler: Sampler,
        *,
        num_negatives: int = 100,
        binary: bool = False,
        certain: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(retriever, catalogue)
        check_certain(sampler, certain)
        self.sampler, self.num_negatives = sampler, num_negatives
        self.binary, self.certain = binary, certain
        self.generator = torch.Generator().manual_seed(seed)

    def refresh(self) -> None:
        """Gives the sampler the current item vectors, without dropout."""
        with torch.no_grad(), evaluation_mode(self.retriever):
            self.sampler.refresh(cast(Retriever, self.retriever).encode_items(self.catalogue))

    def generators(self) -> Mapping[str, torch.Generator]:
        """The sampler's."""
        return {"negatives": self.generator}

    def forward(self, batch: Batch | SequenceBatch) -> dict[str, Tensor]:
        """The loss of a batch."""
        retriever = cast(Retriever, self.retriever)
        queries, target = queries_and_targets(retriever, batch)
        if self.training:
            self.sampler.observe(target)
        with torch.no_grad():
            drawn = self.sampler.sample(queries.detach(), self.num_negatives, self.generator)
            log_q_target = self.sampler.log_q(queries.detach(), target[:, None])[:, 0]
        items = torch.cat([target[:, None], drawn.items], 1)
        scores = pair_scores(queries, retriever.encode_items(items))
        hit, weight = drawn.items == target[:, None], target_weights(batch)
        if self.binary:
            return {"total": binary_loss(scores, hit, weight)}
        if self.certain:
            log_q_target = torch.full_like(log_q_target, -math.log(self.num_negatives))
        loss = sampled_softmax(scores[:, 0], scores[:, 1:], log_q_target, drawn.log_q, hit, weight)
        return {"total": loss}


class InBatchObjective(_RetrievalObjective):
    """Softmax against the other examples of the batch, corrected by item frequency.

    Args:
        retriever: the model.
        catalogue: item rows [M], int64.
        counts: train events of each item row [n_items].
    """

    log_share: Tensor

    def __init__(self, retriever: nn.Module, catalogue: Tensor, counts: Tensor) -> None:
        super().__init__(retriever, catalogue)
        share = counts.double() / counts.sum()
        self.register_buffer("log_share", share.clamp(min=1e-12).log().float(), persistent=False)

    def forward(self, batch: Batch | SequenceBatch) -> dict[str, Tensor]:
        """The loss of a batch."""
        retriever = cast(Retriever, self.retriever)
        queries, target = queries_and_targets(retriever, batch)
        vectors, weight = retriever.encode_items(target), target_weights(batch)
        loss = in_batch_softmax(queries, vectors, target, self.log_share[target], weight)
        return {"total": loss}
