"""pair_blocks: (user, item) pairs regrouped so that a ranker encodes each user once, with little padding.

Shape letters: P pairs, B queries of a block, N items per query.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Items of one query, and pairs with padding of one block: bounds on the ranker's memory.
MOST_ITEMS = 1_024
MOST_PAIRS = 32_768


@dataclass(frozen=True)
class PairBlock:
    """Some queries and the items asked of each.

    Attributes:
        queries: which keys these are [B], int64.
        items: item rows [B, N], int64, 0-padded.
        pairs: positions of the block's pairs among all P, int64.
        owner: the query 0..B-1 of each of them.
        column: their column 0..N-1.
    """

    queries: np.ndarray
    items: np.ndarray
    pairs: np.ndarray
    owner: np.ndarray
    column: np.ndarray


def pair_blocks(keys: np.ndarray, items: np.ndarray, batch_size: int) -> Iterator[PairBlock]:
    """Regroup P pairs by key.

    Args:
        keys: what shares a query (a user row, or the pair's own number) [P], int64.
        items: item rows [P], int64.
        batch_size: most queries in a block.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(keys) else order
    within = np.arange(len(keys)) - np.repeat(first, np.diff(np.append(first, len(keys))))
    # a user with very many items becomes several queries
    start = np.flatnonzero(within % MOST_ITEMS == 0)
    counts = np.diff(np.append(start, len(keys)))
    # queries of like length side by side, the longest first
    by_length = np.argsort(-counts, kind="stable")
    start, counts = start[by_length], counts[by_length]
    at = 0
    while at < len(start):
        n = int(counts[at])
        end = at + min(batch_size, max(1, MOST_PAIRS // n))
        here = counts[at:end]
        owner = np.repeat(np.arange(len(here)), here)
        column = np.arange(len(owner)) - np.repeat(np.cumsum(here) - here, here)
        pairs = order[np.repeat(start[at:end], here) + column]
        wanted = np.zeros((len(here), n), dtype=np.int64)
        wanted[owner, column] = items[pairs]
        yield PairBlock(ordered[start[at:end]], wanted, pairs, owner, column)
        at = end
