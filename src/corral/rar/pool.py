"""Pool: who may be chosen, a frozen snapshot of vectors by row. Shape letters: n rows, q queries, D vector size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from corral.data.tables import Tables
from corral.data.vocabulary import FIRST_ROW
from corral.retrieval.index import ExactIndex

# What selection orders by.
Metric = Literal["cosine", "inner-product"]


class Pool(Tables):
    """Rows and their vectors as of ``fit``, in buffers that take the size of what is loaded into them.

    Args:
        metric: for cosine vectors are kept at length 1.

    Raises:
        ValueError: an unknown metric.
    """

    rows: Tensor
    vectors: Tensor
    version: Tensor
    unit_length: Tensor

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        if metric not in ("cosine", "inner-product"):
            raise ValueError(f"metric={metric!r}: known are cosine and inner-product")
        self.metric = metric
        self.register_buffer("rows", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("vectors", torch.zeros(0, 0))
        self.register_buffer("version", torch.tensor(-1))
        self.register_buffer("unit_length", torch.tensor(metric == "cosine"))
        self._index: ExactIndex | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @torch.no_grad()
    def fit(self, vectors: Tensor, rows: Tensor, version: int) -> None:
        """Takes a copy, by row ascending.

        Args:
            vectors: [n, D], finite.
            rows: theirs [n], int64, without repeats, none of them padding (0) or unknown (1).
            version: of the weights that the vectors came from, at least 0.

        Raises:
            ValueError: any of this is not so.
        """
        if vectors.ndim != 2 or rows.shape != vectors.shape[:1]:
            raise ValueError(f"need vectors [n, D] and rows [n], got {list(vectors.shape)} and {list(rows.shape)}")
        if version < 0:
            raise ValueError(f"version={version}: must not be negative")
        rows, order = rows.detach().to(vectors.device, torch.int64).sort()
        if len(rows) and int(rows[0]) < FIRST_ROW:
            raise ValueError(f"row {int(rows[0])} is reserved; a pool holds rows from {FIRST_ROW} on")
        repeated = rows[1:][rows[1:] == rows[:-1]]
        if len(repeated):
            raise ValueError(f"row {int(repeated[0])} is in the pool twice; its rows must be unique")
        vectors = vectors.detach().float()[order]
        finite = torch.isfinite(vectors).all(1)
        if not bool(finite.all()):
            raise ValueError(f"the vector of row {int(rows[~finite][0])} is not finite")
        self.rows, self.vectors, self._index = rows, self.scaled(vectors), None
        self.version = torch.tensor(version, device=rows.device)

    def scaled(self, vectors: Tensor) -> Tensor:
        """Vectors [..., D] such that inner products are the metric."""
        vectors = vectors.detach().float()
        return functional.normalize(vectors, dim=-1) if self.metric == "cosine" else vectors

    def drop_vectors(self) -> None:
        """Forgets the vectors, where codes do."""
        self.vectors, self._index = self.vectors.new_zeros(0, self.vectors.shape[1]), None

    def index(self) -> ExactIndex:
        """All inner products over the pool, in bounded memory."""
        if self._index is None or self._index.vectors is not self.vectors:
            self._index = ExactIndex(self.vectors, self.rows)
            # One copy is enough: the index made its own.
            self.rows, self.vectors = self._index.items, self._index.vectors
        return self._index

    def positions(self, rows: Tensor) -> Tensor:
        """Where rows [...] stand in the pool, int64; -1 for others."""
        if not len(self):
            return torch.full_like(rows, -1)
        at = torch.searchsorted(self.rows, rows.contiguous()).clamp(max=len(self) - 1)
        return torch.where(self.rows[at] == rows, at, -1)

    def renumber(self, moved: Tensor) -> None:
        """Takes new row numbers in the same order; ``moved`` [old rows]: where each went."""
        self.rows, self._index = moved.to(self.rows)[self.rows], None

    def check_fitted(self) -> None:
        """Refuses a search in a pool that never was.

        Raises:
            RuntimeError: nothing was fitted or loaded.
        """
        if int(self.version) < 0:
            raise RuntimeError("the selector has no pool yet: call fit, or load a saved one")

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        saved = state_dict.get(prefix + "unit_length")
        if isinstance(saved, Tensor) and bool(saved) != (self.metric == "cosine"):
            raise ValueError(f"the saved pool is of the other metric, not {self.metric}: build the selector as it was")
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._index = None
