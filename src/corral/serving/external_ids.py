"""External ids of a call <-> rows, many at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from corral.data.vocabulary import Vocabulary
from corral.serving.filters import Ids, listed


def numbered(vocabulary: Vocabulary, ids: Ids) -> tuple[list[Any], np.ndarray]:
    """The ids as a list, and their rows, int64."""
    return listed(ids), vocabulary.rows(ids).astype(np.int64)


def external(vocabulary: Vocabulary, rows: np.ndarray) -> list[list[Any]]:
    """External ids of rows [B, T], None for padding."""
    flat, width = vocabulary.external(rows.reshape(-1)), rows.shape[1]
    return [flat[start * width : (start + 1) * width] for start in range(len(rows))]


def external_nested(vocabulary: Vocabulary, rows: np.ndarray) -> list[list[list[Any]]]:
    """External ids of rows [B, T, C], None for padding."""
    return [external(vocabulary, one) for one in rows]
