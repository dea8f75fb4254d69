"""InnerProductHash: SimHash with one more coordinate, so that the angle means the inner product.

Bachrach et al., RecSys 2014; Neyshabur & Srebro, ICML 2015. Shape letters: n vectors, D vector size, W words.
"""

from __future__ import annotations

import torch
from torch import Tensor

from corral.data.tables import Tables
from corral.rar.simhash import SimHash


class InnerProductHash(Tables):
    """Pool vectors x become [x / r ; sqrt(1 - |x / r|^2)], r the pool's largest norm; queries become [q ; 0].

    All pool vectors are then of length 1 and <q, x> = r |q| cos(angle): the angle orders by inner product. The pool's
    mean may be taken out of the pool, where it changes no order, but never of the queries. Vectors longer than the
    pool's longest (those of another pool) have a last coordinate of 0.

    Args:
        size, bits, seed, centre: as of ``SimHash``.
    """

    mean: Tensor
    radius: Tensor

    def __init__(self, size: int, bits: int, *, seed: int, centre: bool = True) -> None:
        super().__init__()
        self.bits, self.seed, self.centre = bits, seed, centre
        self.hash = SimHash(size + 1, bits, seed=seed, centre=False)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("radius", torch.ones(()))

    @property
    def size(self) -> int:
        """D."""
        return len(self.mean)

    @torch.no_grad()
    def fit(self, vectors: Tensor) -> None:
        """Takes mean (where codes are centred) and largest norm of the pool [n, D]."""
        if not len(vectors):
            return
        if self.centre:
            self.mean.copy_(vectors.float().mean(0))
        largest = torch.stack([(block.float() - self.mean).norm(dim=1).amax() for block in vectors.split(1 << 16)])
        self.radius.copy_(largest.amax().clamp(min=torch.finfo(torch.float32).tiny))

    @torch.no_grad()
    def codes(self, vectors: Tensor) -> Tensor:
        """Fingerprints [n, W], int64, of pool vectors [n, D]."""
        blocks = []
        for block in vectors.split(1 << 16):
            inside = (block.float() - self.mean) / self.radius
            last = (1 - inside.square().sum(1, keepdim=True)).clamp(min=0).sqrt()
            blocks.append(self.hash.codes(torch.cat([inside, last], 1)))
        return torch.cat(blocks)

    @torch.no_grad()
    def query_codes(self, queries: Tensor) -> Tensor:
        """Fingerprints [q, W], int64, of queries [q, D]."""
        return self.hash.codes(torch.nn.functional.pad(queries.float(), (0, 1)))
