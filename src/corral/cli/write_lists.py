"""write_lists: recommendations into a file, as they are made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from corral.cli.progress import progress
from corral.cli.table_writer import table_writer
from corral.serving.recommendations import Recommendations
from corral.serving.recommender import TwoStageRecommender

# Users of one batch: bounds the memory.
BATCH = 4_096
_KINDS = {"int64": pl.Int64(), "string": pl.String()}


def write_lists(
    path: Path,
    recommender: TwoStageRecommender,
    answers: Iterable[Recommendations],
    *,
    users: int,
    explain: bool = False,
    quiet: bool = False,
) -> int:
    """Writes lists, one row an entry; see ``table_writer``.

    Args:
        path: the file.
        recommender: whose lists they are.
        answers: the lists, some users at a time.
        users: how many there are.
        explain: the answers say what both stages said.
        quiet: no progress bar.

    Returns:
        How many lists are shorter than was asked for.
    """
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
    short = 0
    with progress("Lists", total=users, quiet=quiet) as advance, table_writer(path, pl.Schema(columns)) as write:
        for found in answers:
            write(found.to_frame())
            short += int(found.short.sum())
            advance(len(found))
    return short
