"""Which slots of a history are near a target, by signs of random projections: cheap enough for long histories.

Shape letters: m bits, S vector size, ... any shape.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class HistoryHash(nn.Module):
    """The bits 1[v A >= 0], A [S, m] Gaussian, drawn once from a seed and never trained.

    Two vectors agree on a bit with probability 1 - angle / pi, whatever their lengths. Targets and history slots are
    hashed as they are now, so the codes follow the embeddings through training and nothing need be refreshed. No
    gradient flows through a bit.

    Args:
        size: S.
        bits: m.
        seed: of A.
    """

    projection: Tensor

    def __init__(self, size: int, bits: int, *, seed: int = 0) -> None:
        super().__init__()
        if bits < 1:
            raise ValueError(f"bits={bits}: need at least one")
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("projection", torch.randn(size, bits, generator=generator))

    @torch.no_grad()
    def forward(self, vectors: Tensor) -> Tensor:
        """[..., S] -> bool [..., m]."""
        # Under autocast the signs would be those of bfloat16: other slots in training than in service.
        with torch.autocast(vectors.device.type, enabled=False):
            return vectors.to(self.projection.dtype) @ self.projection >= 0
