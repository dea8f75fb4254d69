"""write_lists: recommendations into a file, as they are made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from corral.cli.progress import progress
from corral.cli.table_writer import table_writer
from corral.serving.recommender import TwoStageRecommender

# Users of one batch: bounds the memory.
BATCH = 4_096
_KINDS = {"int64": pl.Int64(), "string": pl.String()}


def lists_schema(recommender: TwoStageRecommender, explain: bool = False) -> pl.Schema:
    """Columns of a file of lists; ``explain``: with what both stages said."""
    columns = {
        "user_id": _KINDS[recommender.tables.users.id_type],
        "rank": pl.Int64(),
        "item_id": _KINDS[recommender.tables.items.id_type],
        "score": pl.Float64(),
        "fallback": pl.Boolean(),
    }
    if explain:
        columns["retriever_score"] = pl.Float64()
        if recommender.ranker is not None:
            columns["ranker_logit"] = pl.Float64()
    return pl.Schema(columns)


def write_lists(
    path: Path, schema: pl.Schema, frames: Iterable[pl.DataFrame], *, users: int, k: int, quiet: bool = False
) -> int:
    """Writes lists, one row an entry; see ``table_writer``.

    Args:
        path: the file.
        schema: see ``lists_schema``.
        frames: the lists of ``BATCH`` users each, as from ``Recommendations.to_frame``.
        users: how many there are.
        k: how many items each should have.
        quiet: no progress bar.

    Returns:
        How many lists are shorter.
    """
    whole, left = 0, users
    with progress("Lists", total=users, quiet=quiet) as advance, table_writer(path, schema) as write:
        for frame in frames:
            write(frame)
            whole += int((frame["rank"] == k).sum())
            advance(min(BATCH, left))
            left -= BATCH
    return users - whole
