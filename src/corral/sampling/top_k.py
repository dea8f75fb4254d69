"""The retriever's best items as "hard negatives": uncorrected and biased on purpose, for comparison."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corral.retrieval.index import ordered_top
from corral.sampling.item_vectors import ItemVectors
from corral.sampling.sampler import Sample


class TopKSampler(nn.Module):
    """The best items of each query, best first; after the k-th the first comes again.

    No draw at all, and false negatives often: the best items not clicked are those that will be. Its log_q
    is 0, as where people train on a retriever's top-k; a loss built on it has no known limit.

    Args:
        catalogue: item rows [M], int64.
        size: D, of query and item vectors.
        k: how many of the best; at most M are there.

    Raises:
        ValueError: k < 1.
    """

    normalised: bool = False

    def __init__(self, catalogue: Tensor, *, size: int, k: int = 100) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.k = min(k, len(catalogue))
        self.item_vectors = ItemVectors(catalogue, size=size)

    def refresh(self, item_vectors: Tensor) -> None:
        """Copies item vectors [M, D]."""
        self.item_vectors.refresh(item_vectors)

    def observe(self, items: Tensor) -> None:
        """Nothing to do."""

    @torch.no_grad()
    def sample(self, query_vectors: Tensor, n: int, generator: torch.Generator) -> Sample:
        """The n best items [B, N], in a cycle of k; ``generator`` is not used."""
        device = query_vectors.device
        return self._take(query_vectors, (torch.arange(n, device=device) % self.k).expand(len(query_vectors), n))

    def log_q(self, query_vectors: Tensor, items: Tensor) -> Tensor:
        """0 for every item of the catalogue [B, N]: no correction."""
        nothing = torch.zeros(items.shape, device=items.device)
        return nothing.masked_fill(self.item_vectors.catalogue.positions(items) < 0, -torch.inf)

    def _take(self, query_vectors: Tensor, places: Tensor) -> Sample:
        """The items at ``places`` [B, N] of each query's k best, counted from 0."""
        at = torch.zeros_like(places)
        for part, scores in self.item_vectors.scores(query_vectors):
            at[part] = ordered_top(scores, self.k)[1].gather(1, places[part])
        items = self.item_vectors.catalogue.items[at]
        return Sample(items, torch.zeros(items.shape, device=items.device))


class TopKRandomSampler(TopKSampler):
    """Uniform draws, with replacement, from the k best items of each query; log_q is 0 here too."""

    @torch.no_grad()
    def sample(self, query_vectors: Tensor, n: int, generator: torch.Generator) -> Sample:
        """n draws per query [B, N]."""
        shape = (len(query_vectors), n)
        places = torch.randint(self.k, shape, generator=generator, device=generator.device)
        return self._take(query_vectors, places.to(query_vectors.device))
