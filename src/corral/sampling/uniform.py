"""Uniform negatives: every item of the catalogue alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from corral.sampling.sampler import Sample


class UniformSampler:
    """Draws item rows of the catalogue [M] with probability 1/M."""

    def __init__(self, catalogue: Tensor) -> None:
        if len(catalogue) == 0:
            raise ValueError("an empty catalogue cannot be sampled from")
        self._catalogue = catalogue

    def refresh(self, item_vectors: Tensor) -> None:
        """Nothing to do."""

    def sample(self, query_vectors: Tensor, n: int, generator: torch.Generator) -> Sample:
        """n draws per query [B, N]."""
        shape = (query_vectors.shape[0], n)
        at = torch.randint(len(self._catalogue), shape, generator=generator, device=generator.device)
        items = self._catalogue.to(query_vectors.device)[at.to(query_vectors.device)]
        return Sample(items, self.log_q(query_vectors, items))

    def log_q(self, query_vectors: Tensor, items: Tensor) -> Tensor:
        """-log M for every item [B, N]."""
        return torch.full(items.shape, -math.log(len(self._catalogue)), device=items.device)
