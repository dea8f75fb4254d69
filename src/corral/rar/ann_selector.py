"""AnnSelector: approximate cosine or inner product by FAISS's inverted lists or graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from corral.rar.pool import Metric, Pool
from corral.rar.selection import Selected
from corral.retrieval.faiss_index import FaissIndex


class AnnSelector(nn.Module):
    """Float vectors in lists around k-means centres, or in a graph. A ``Selector``.

    The pool is in buffers; the structure is built from it at the first search, and again after a load. It is the same
    again for ``ivf``; a graph built by several threads may differ in the order of insertions.

    Args:
        metric: what is ordered by.
        kind: ``ivf`` or ``hnsw``.
        probes: lists visited (ivf) or breadth of the search (hnsw).
        num_lists: ivf: number of lists; None = 4 sqrt(n).

    Raises:
        ValueError: an unknown kind.
    """

    def __init__(
        self,
        metric: Metric = "cosine",
        *,
        kind: Literal["ivf", "hnsw"] = "ivf",
        probes: int = 16,
        num_lists: int | None = None,
    ) -> None:
        super().__init__()
        if kind not in ("ivf", "hnsw"):
            raise ValueError(f"kind={kind!r}: known are ivf and hnsw")
        self.kind, self.probes, self.num_lists = kind, probes, num_lists
        self.pool = Pool(metric)
        self._index: tuple[Tensor, FaissIndex] | None = None

    def fit(self, vectors: Tensor, rows: Tensor, *, version: int = 0) -> None:
        """Takes the pool, made from weights of ``version``; see ``Pool.fit``."""
        self.pool.fit(vectors, rows, version)
        self._index = None

    @torch.no_grad()
    def search(self, queries: Tensor, k: int, exclude: Tensor | None = None) -> Selected:
        """See ``Selector``; never short while rows remain.

        Raises:
            ImportError: FAISS is not installed.
        """
        self.pool.check_fitted()
        out = None if exclude is None else exclude[:, None]
        found = self._native().search(self.pool.scaled(queries), k, out)
        return Selected(found.items, found.scores)

    def _native(self) -> FaissIndex:
        vectors, rows = self.pool.vectors, self.pool.rows
        if self._index is None or self._index[0] is not vectors:
            if self.kind == "ivf":
                index = FaissIndex.ivf(vectors, rows, num_lists=self.num_lists, num_probes=self.probes)
            else:
                index = FaissIndex.hnsw(vectors, rows, search_breadth=self.probes)
            self._index = vectors, index
        return self._index[1]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._index = None
