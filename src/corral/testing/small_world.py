"""Small queries and feature tables, with every oddity that a part must cope with."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import torch
from torch import Tensor

from corral.data.batches import Query
from corral.data.features import FeatureTable
from corral.data.vocabulary import FIRST_ROW, PADDING, UNKNOWN, Vocabulary


def seeded(seed: int) -> torch.Generator:
    """A generator of its own for every draw."""
    return torch.Generator().manual_seed(seed)


def small_features(rows: int, key: str) -> FeatureTable:
    """Features of all kinds, some missing: ``group``, ``tags`` (several values), ``number``, ``title`` (text).

    Args:
        rows: how many, the two reserved ones included.
        key: "user_id" or "item_id".
    """
    ids = list(range(rows - FIRST_ROW))
    frame = pl.DataFrame(
        {
            key: ids,
            "group": [f"g{i % 7}" for i in ids],
            "tags": [[f"t{j}" for j in range(i % 4)] for i in ids],
            "number": [float(i % 11) if i % 5 else None for i in ids],
            "title": [f"thing {i} of kind {i % 7}" if i % 9 else None for i in ids],
        }
    )
    return FeatureTable.build(frame, key, Vocabulary.of(frame[key]), ["title"])


def small_queries(queries: int, *, users: int, items: int, length: int) -> Query:
    """Histories of all lengths; the first query has none, the second comes from an unknown user.

    Args:
        queries: B.
        users: user rows, the reserved ones included.
        items: item rows, likewise.
        length: L.
    """
    generator = seeded(queries)
    history = torch.randint(FIRST_ROW, items, (queries, length), generator=generator)
    lengths = torch.randint(0, length + 1, (queries, 1), generator=generator)
    lengths[0] = 0
    history[torch.arange(length) < length - lengths] = PADDING
    user = torch.randint(FIRST_ROW, users, (queries,), generator=generator)
    user[1:2] = UNKNOWN
    return Query(user, torch.full((queries,), -1), history, torch.arange(queries) + 1_000_000)


def with_history(query: Query, history: Tensor) -> Query:
    """The same queries after other histories [B, L]."""
    return replace(query, history=history)


def one_query(query: Query, row: int) -> Query:
    """The query of a row, as a batch of one."""
    return query.where(torch.arange(len(query)) == row)


def distinct_items(queries: int, count: int, items: int) -> Tensor:
    """Real item rows [B, N], none twice for a query."""
    generator = seeded(count)
    return torch.stack([torch.randperm(items - FIRST_ROW, generator=generator)[:count] for _ in range(queries)]) + 2
