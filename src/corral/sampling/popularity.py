"""Popular items as negatives: in proportion to (train events + 1) ** power."""

from __future__ import annotations

import torch
from torch import Tensor

from corral.sampling.sampler import Sample


class PopularitySampler:
    """Draws item rows in proportion to a power of their train counts plus one.

    Args:
        catalogue: item rows [M], int64.
        counts: train events of each of them [M].
        power: 1 draws by popularity, 0 uniformly.
    """

    def __init__(self, catalogue: Tensor, counts: Tensor, *, power: float = 1.0) -> None:
        if len(catalogue) == 0:
            raise ValueError("an empty catalogue cannot be sampled from")
        weight = (counts.double() + 1) ** power
        self._catalogue = catalogue
        self._cumulative = weight.cumsum(0) / weight.sum()
        self._log_q = torch.full((int(catalogue.max()) + 1,), -torch.inf)
        self._log_q[catalogue] = (weight / weight.sum()).log().float()

    def refresh(self, item_vectors: Tensor) -> None:
        """Nothing to do."""

    def sample(self, query_vectors: Tensor, n: int, generator: torch.Generator) -> Sample:
        """n draws per query [B, N]: by inversion, log M steps a draw."""
        shape = (query_vectors.shape[0], n)
        uniform = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
        at = torch.searchsorted(self._cumulative.to(uniform.device), uniform).clamp(max=len(self._catalogue) - 1)
        items = self._catalogue.to(at.device)[at].to(query_vectors.device)
        return Sample(items, self.log_q(query_vectors, items))

    def log_q(self, query_vectors: Tensor, items: Tensor) -> Tensor:
        """Log-probability of each item [B, N]."""
        return self._log_q.to(items.device)[items]
