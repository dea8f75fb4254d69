"""CatalogueSoftmax: cross entropy of clicked items against the whole catalogue, as a part that objectives hold."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from corral.retrieval.retriever import Retriever
from corral.training.losses import full_softmax


class ItemSoftmax(Protocol):
    """Cross entropy against all items of a catalogue, wherever their vectors are."""

    def __call__(self, retriever: Retriever, queries: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Scalar, mean over P: the loss of query vectors [P, D] whose clicked items are the rows ``target`` [P].

        ``weight``: of each [P]; None: all alike.
        """
        ...


class CatalogueSoftmax(nn.Module):
    """Over item vectors that are all at hand.

    Args:
        catalogue: item rows [M], int64.
        chunk: queries per chunk of the loss; memory is chunk x M floats.
        label_smoothing: probability mass spread evenly over the catalogue.
    """

    catalogue: Tensor
    position: Tensor

    def __init__(self, catalogue: Tensor, *, chunk: int = 256, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.chunk, self.label_smoothing = chunk, label_smoothing
        # -1: a target outside the catalogue is an error, not the first item.
        position = torch.full((int(catalogue.max()) + 1,), -1, device=catalogue.device)
        position[catalogue] = torch.arange(len(catalogue), device=catalogue.device)
        self.register_buffer("catalogue", catalogue, persistent=False)
        self.register_buffer("position", position, persistent=False)

    def forward(self, retriever: Retriever, queries: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss, a scalar."""
        vectors = retriever.encode_items(self.catalogue)
        return full_softmax(
            queries,
            vectors,
            self.position[target],
            chunk=self.chunk,
            label_smoothing=self.label_smoothing,
            weight=weight,
        )
