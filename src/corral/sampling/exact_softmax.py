"""The retriever's own softmax over the whole catalogue as a proposal: exact, slow, the yardstick of the others."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corral.sampling.inverse_cdf import inverse_cdf
from corral.sampling.item_vectors import ItemVectors
from corral.sampling.sampler import Sample


class ExactSoftmaxSampler(nn.Module):
    """Draws item i with probability e^{<q, v_i>} / sum_j e^{<q, v_j>}: O(M D) per query.

    v are the vectors of the last refresh: exact for the retriever only while those are its vectors.

    Args:
        catalogue: item rows [M], int64.
        size: D, of query and item vectors.
    """

    normalised: bool = True

    def __init__(self, catalogue: Tensor, *, size: int) -> None:
        super().__init__()
        self.item_vectors = ItemVectors(catalogue, size=size)

    def refresh(self, item_vectors: Tensor) -> None:
        """Copies item vectors [M, D]."""
        self.item_vectors.refresh(item_vectors)

    def observe(self, items: Tensor) -> None:
        """Nothing to do."""

    @torch.no_grad()
    def sample(self, query_vectors: Tensor, n: int, generator: torch.Generator) -> Sample:
        """n draws per query [B, N], by inversion."""
        shape = (len(query_vectors), n)
        uniform = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
        uniform = uniform.to(query_vectors.device)
        at = torch.zeros(shape, dtype=torch.int64, device=query_vectors.device)
        log_q = torch.zeros(shape, dtype=self.item_vectors.vectors.dtype, device=query_vectors.device)
        for part, scores in self.item_vectors.scores(query_vectors):
            probability = torch.softmax(scores, 1)
            at[part] = inverse_cdf(probability.cumsum(1, dtype=torch.float64), uniform[part])
            log_q[part] = scores.gather(1, at[part]) - torch.logsumexp(scores, 1, keepdim=True)
        return Sample(self.item_vectors.catalogue.items[at], log_q)

    @torch.no_grad()
    def log_q(self, query_vectors: Tensor, items: Tensor) -> Tensor:
        """Log-probability of each item [B, N]."""
        at = self.item_vectors.catalogue.positions(items)
        log_q = torch.zeros(items.shape, dtype=self.item_vectors.vectors.dtype, device=items.device)
        for part, scores in self.item_vectors.scores(query_vectors):
            own = scores.gather(1, at[part].clamp(min=0))
            log_q[part] = own - torch.logsumexp(scores, 1, keepdim=True)
        return log_q.masked_fill(at < 0, -torch.inf)
