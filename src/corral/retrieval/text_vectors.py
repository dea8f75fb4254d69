"""TextVectors: every item's text as a frozen encoder (sentence-transformers, or any with its ``encode``) sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from corral.data.features import FeatureKind, FeatureTable
from corral.data.tables import Tables


class TextEncoder(Protocol):
    """As ``sentence_transformers.SentenceTransformer``: texts in, one vector for each out."""

    def encode(self, sentences: list[str], /) -> Any:
        """Vectors [n, E] of n texts: an array, or what ``numpy.asarray`` takes."""
        ...


class TextVectors(Tables):
    """A vector [E] by item row; zeros where there is no text. Encoded once, saved with the retriever, never trained.

    Args:
        items: features by item row, text columns among them.
        encoder: None: vectors are loaded, from a bundle, which needs no encoder to be served.
        size: E, where there is no encoder to ask.
        columns: names of the text columns, joined in this order; None: all.

    Raises:
        ValueError: no such column, neither encoder nor size, or the encoder gives something else than [n, E].
    """

    vectors: Tensor

    def __init__(
        self,
        items: FeatureTable,
        encoder: TextEncoder | None,
        *,
        size: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if encoder is None and size is None:
            raise ValueError("text vectors: give the encoder, or, to load them, the size of its vectors")
        self.columns = None if columns is None else tuple(columns)
        # A function, so that copies of the module share the encoder.
        self._encode: Callable[[list[str]], Any] | None = None if encoder is None else lambda some: encoder.encode(some)
        texts = _texts(items, self.columns)
        vectors = torch.zeros(items.rows, size or 0) if self._encode is None else self._of(texts, size)
        self.register_buffer("vectors", vectors)

    @property
    def size(self) -> int:
        """E."""
        return self.vectors.shape[1]

    def forward(self, items: Tensor) -> Tensor:
        """Vectors [..., E] of item rows [...]."""
        return self.vectors[items]

    def renumber(self, moved: Tensor, items: FeatureTable) -> None:
        """Takes a longer catalogue; see ``HoldsItemRows``. New items are encoded, where the encoder is at hand."""
        longer = torch.zeros(items.rows, self.size, dtype=self.vectors.dtype, device=self.vectors.device)
        if self._encode is not None:
            texts = _texts(items, self.columns)
            for row in moved.tolist():
                texts[row] = ""
            longer = self._of(texts, self.size).to(longer)
        longer[moved.to(longer.device)] = self.vectors
        self.vectors = longer

    def _of(self, texts: list[str], size: int | None) -> Tensor:
        assert self._encode is not None
        rows = [row for row, text in enumerate(texts) if text]
        if not rows:
            if size is None:
                raise ValueError("text vectors: no item has a text in the columns that were named")
            return torch.zeros(len(texts), size)
        found = np.asarray(self._encode([texts[row] for row in rows]), dtype=np.float32)
        if found.ndim != 2 or len(found) != len(rows) or (size is not None and found.shape[1] != size):
            wanted = f"[{len(rows)}, {'E' if size is None else size}]"
            raise ValueError(f"the encoder gave {list(found.shape)} for {len(rows)} texts, need {wanted}")
        if not np.isfinite(found).all():
            bad = texts[rows[int((~np.isfinite(found)).any(1).argmax())]]
            raise ValueError(f"the encoder gave numbers that are not finite for {bad[:60]!r}")
        vectors = torch.zeros(len(texts), found.shape[1])
        vectors[rows] = torch.from_numpy(found)
        return vectors


def _texts(items: FeatureTable, columns: Sequence[str] | None) -> list[str]:
    """One text an item row; "" where there is none."""
    known = {name: one for name, one in items.columns.items() if one.kind is FeatureKind.TEXT}
    names = tuple(known) if columns is None else tuple(columns)
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        what = f"no text column {wrong[0]!r}" if wrong else "no text column"
        raise ValueError(
            f"items have {what}, only {', '.join(items.columns) or 'their ids'}: name text columns when the data are "
            "read (text_columns=, corral data add --text)"
        )
    parts = [one.to_pylist() for name in names if (one := known[name].texts) is not None]
    return [". ".join(text for text in row if text) for row in zip(*parts, strict=True)]
