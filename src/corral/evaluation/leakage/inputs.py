"""RowInput and TableInput: what models are given, as functions of a data set and its split, to be computed again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corral.data.batches import Batch
from corral.data.dataset import Dataset
from corral.data.examples import Examples
from corral.data.split import Split

# Rows computed together.
_ROWS = 4096


@dataclass(frozen=True)
class RowInput:
    """What a model is given for a (query, item) pair, its embeddings aside: a history, evidence, neighbours.

    Attributes:
        name: for people.
        of: builds it from the events and their parts; the function it returns gives, for a batch, [B, ...] of any
            dtype. It may look at everything in the batch but its label.
        columns: what its numbers are called, for people; () where they have no names.
        own: why the row's own event may be among what it is made of, where that is known; "" where it may not.
    """

    name: str
    of: Callable[[Dataset, Split], Callable[[Batch], Tensor]]
    columns: Sequence[str] = ()
    own: str = ""

    def values(self, dataset: Dataset, split: Split, rows: Examples, history_length: int) -> np.ndarray:
        """The inputs of the rows [n, C], flattened; computed anew."""
        asked = self.of(dataset, split)
        found = []
        with torch.no_grad():
            for start in range(0, len(rows), _ROWS):
                at = np.arange(start, min(start + _ROWS, len(rows)))
                found.append(asked(rows.batch(at, history_length)).cpu().reshape(len(at), -1).numpy())
        return np.concatenate(found) if found else np.zeros((0, 0))


@dataclass(frozen=True)
class TableInput:
    """What training is given once for all rows: a catalogue, counts, scales.

    Attributes:
        name: for people.
        of: the arrays, from the events and their parts; item and user rows keep their numbers.
    """

    name: str
    of: Callable[[Dataset, Split], Sequence[np.ndarray]]


def differing(first: np.ndarray, second: np.ndarray, atol: float = 1e-6) -> np.ndarray:
    """Which rows of two arrays [n, ...] differ by more than rounding: bool [n]; all, where the shapes differ."""
    if first.shape != second.shape:
        return np.ones(max(len(first), len(second), 1), dtype=bool)
    if first.dtype.kind == "f":
        same = np.isclose(first, second, rtol=1e-5, atol=atol, equal_nan=True)
    else:
        same = first == second
    return ~same.reshape(len(first), int(np.prod(first.shape[1:]))).all(1)
