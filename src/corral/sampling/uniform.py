"""Uniform negatives: every item of the catalogue alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from corral.sampling.catalogue import Catalogue
from corral.sampling.sampler import Sample


class UniformSampler(nn.Module):
    """Draws item rows of the catalogue [M] with probability 1/M."""

    normalised: bool = True

    def __init__(self, catalogue: Tensor) -> None:
        super().__init__()
        self.catalogue = Catalogue(catalogue)

    def refresh(self, item_vectors: Tensor) -> None:
        """Nothing to do."""

    def observe(self, items: Tensor) -> None:
        """Nothing to do."""

    def sample(self, query_vectors: Tensor, n: int, generator: torch.Generator) -> Sample:
        """n draws per query [B, N]."""
        shape = (query_vectors.shape[0], n)
        at = torch.randint(len(self.catalogue), shape, generator=generator, device=generator.device)
        items = self.catalogue.items[at.to(self.catalogue.items.device)]
        return Sample(items, self.log_q(query_vectors, items))

    def log_q(self, query_vectors: Tensor, items: Tensor) -> Tensor:
        """-log M for every item of the catalogue [B, N]."""
        everywhere = torch.full(items.shape, -math.log(len(self.catalogue)), device=items.device)
        return everywhere.masked_fill(self.catalogue.positions(items) < 0, -torch.inf)
