"""order_statistic: the value at a place of the sorted order, of a column larger than memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

CHUNK_ROWS = 1 << 22
_BINS = 1 << 16


def chunks(rows: int) -> Iterator[slice]:
    """Pieces of a column, in order: what is made of one at a time is small beside it."""
    return (slice(start, min(start + CHUNK_ROWS, rows)) for start in range(0, rows, CHUNK_ROWS))


def order_statistic(values: np.ndarray, place: int) -> int:
    """``np.partition(values, place)[place]`` without a copy of the values.

    Each pass counts them in 65,536 bins and goes on with the bin that holds the place: two passes for a range of four
    billion, four at most.

    Args:
        values: integers [n], n > 0.
        place: 0 to n - 1.
    """
    low, high = int(values.min()), int(values.max())
    while low < high:
        width = (high - low) // _BINS + 1
        counts = np.zeros(_BINS, dtype=np.int64)
        for rows in chunks(len(values)):
            chunk = values[rows]
            inside = chunk[(chunk >= low) & (chunk <= high)]
            counts += np.bincount((inside - low) // width, minlength=_BINS)
        ends = np.cumsum(counts)
        found = int(np.searchsorted(ends, place, side="right"))
        place -= int(ends[found] - counts[found])
        low += found * width
        high = min(high, low + width - 1)
    return low
