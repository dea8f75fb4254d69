"""Popular items as negatives: in proportion to (train events + 1) ** power."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corral.sampling.catalogue import Catalogue
from corral.sampling.inverse_cdf import inverse_cdf
from corral.sampling.sampler import Sample


class PopularitySampler(nn.Module):
    """Draws item rows in proportion to a power of their train counts plus one.

    Args:
        catalogue: item rows [M], int64.
        counts: train events of each of them [M].
        power: 1 draws by popularity, 0 uniformly.
    """

    normalised: bool = True

    cumulative: Tensor
    log_share: Tensor

    def __init__(self, catalogue: Tensor, counts: Tensor, *, power: float = 1.0) -> None:
        super().__init__()
        self.catalogue = Catalogue(catalogue)
        if counts.shape != catalogue.shape:
            raise ValueError(f"need a count for each of the {len(catalogue)} items, got {list(counts.shape)}")
        weight = (counts.double() + 1) ** power
        self.register_buffer("cumulative", weight.cumsum(0) / weight.sum(), persistent=False)
        self.register_buffer("log_share", (weight / weight.sum()).log().float(), persistent=False)

    def refresh(self, item_vectors: Tensor) -> None:
        """Nothing to do."""

    def observe(self, items: Tensor) -> None:
        """Nothing to do."""

    def sample(self, query_vectors: Tensor, n: int, generator: torch.Generator) -> Sample:
        """n draws per query [B, N]: by inversion, log M steps a draw."""
        shape = (query_vectors.shape[0], n)
        uniform = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
        at = inverse_cdf(self.cumulative, uniform.to(self.cumulative))
        return Sample(self.catalogue.items[at], self.log_share[at])

    def log_q(self, query_vectors: Tensor, items: Tensor) -> Tensor:
        """Log-probability of each item [B, N]."""
        position = self.catalogue.positions(items)
        return self.log_share[position].masked_fill(position < 0, -torch.inf)
