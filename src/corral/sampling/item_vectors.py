"""ItemVectors: the catalogue's vectors as of the last refresh, and the scores of queries against all of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from corral.data.whole_batch import gathered
from corral.sampling.catalogue import Catalogue


class ItemVectors(nn.Module):
    """A copy of the item vectors [M, D] of a catalogue, for the samplers that score every item.

    Args:
        catalogue: item rows [M], int64.
        size: D.
        score_bytes: bound on the memory of one block of scores; sets the queries scored at a time.
    """

    vectors: Tensor
    refreshed: Tensor

    def __init__(self, catalogue: Tensor, *, size: int, score_bytes: int = 64 << 20) -> None:
        super().__init__()
        self.catalogue, self.size = Catalogue(catalogue), size
        self.block = max(1, score_bytes // (4 * len(catalogue)))
        self.register_buffer("vectors", torch.zeros(len(catalogue), size, device=catalogue.device))
        self.register_buffer("refreshed", torch.zeros((), dtype=torch.bool, device=catalogue.device))

    @torch.no_grad()
    def refresh(self, item_vectors: Tensor) -> None:
        """Copies item vectors [M, D]; of several processes each gives its part of the catalogue's.

        Raises:
            ValueError: vectors of another shape, or not finite.
        """
        item_vectors = gathered(item_vectors)
        self.catalogue.check_vectors(item_vectors, self.size)
        self.vectors.copy_(item_vectors)
        self.refreshed.fill_(True)

    def scores(self, query_vectors: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Scores [b, M] of the queries [B, D], with the slice of B they belong to, block after block.

        In the vectors' dtype (float32), also under autocast: half-precision scores would be another proposal.

        Raises:
            RuntimeError: before the first refresh.
        """
        if not bool(self.refreshed):
            raise RuntimeError("the sampler has no item vectors yet: call refresh(item_vectors) before drawing")
        for start in range(0, len(query_vectors), self.block):
            part = slice(start, start + self.block)
            with torch.autocast(query_vectors.device.type, enabled=False):
                scores = query_vectors[part].to(self.vectors.dtype) @ self.vectors.T
            yield part, scores
