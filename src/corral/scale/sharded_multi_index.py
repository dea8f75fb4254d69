"""ShardedMultiIndexSampler: MIDX whose codewords are built from item vectors that are cut over the workers."""

from __future__ import annotations

import torch
from torch import Tensor

from corral.corr.multi_index_sampler import MultiIndexSampler
from corral.scale.sharded_quantization import sharded_quantize
from corral.scale.workers import Workers


class ShardedMultiIndexSampler(MultiIndexSampler):
    """Draws as ``MultiIndexSampler``; a refresh takes this worker's vectors alone.

    Args:
        catalogue: item rows [M], int64, ascending: the workers' items, one part after the other.
        workers: who share it.
        size, num_codewords, seed: see ``MultiIndexSampler``.
    """

    def __init__(
        self, catalogue: Tensor, workers: Workers, *, size: int, num_codewords: int = 32, seed: int = 0
    ) -> None:
        super().__init__(catalogue, size=size, num_codewords=num_codewords, seed=seed)
        self._workers = workers

    @torch.no_grad()
    def refresh(self, item_vectors: Tensor) -> None:
        """Builds codewords and lists from the vectors of this worker's items [m, D].

        Raises:
            ValueError: the workers' vectors are not those of the catalogue, or not finite.
        """
        workers = self._workers
        found = workers.total(len(item_vectors))
        if found != len(self.catalogue) or item_vectors.shape[1:] != (self.size,):
            raise ValueError(
                f"need [{len(self.catalogue)}, {self.size}] of all workers, got {found} vectors, "
                f"here {list(item_vectors.shape)}"
            )
        if workers.total(int((~torch.isfinite(item_vectors)).sum())):
            raise ValueError("an item vector is not finite; lower the learning rate")
        self._take(
            sharded_quantize(item_vectors, self.num_codewords, workers, previous=self._previous(), seed=self.seed)
        )
