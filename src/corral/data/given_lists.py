"""GivenLists: ranked lists of another system, from a table of user_id, item_id and, if there is one, score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from corral.data.event_check import ID_COLUMNS, require_columns
from corral.data.id_check import check_ids_like
from corral.data.skipped_rows import Problems, SkippedRows
from corral.data.table_files import load_table
from corral.data.vocabulary import UNKNOWN, Vocabulary


@dataclass(frozen=True)
class GivenLists:
    """A list for each user that the table names.

    Attributes:
        users: external ids [n], in the order of their first rows, of the vocabulary's type.
        items: external ids of each list [n], best first: by score descending, equal scores and lists without
            scores in the order of the rows.
        source: the file's name.
        skipped: bad rows that were dropped.
    """

    users: pl.Series
    items: pl.Series
    source: str
    skipped: SkippedRows

    def __len__(self) -> int:
        return len(self.users)


def read_lists(
    table: str | Path | Any,
    users: Vocabulary,
    items: Vocabulary,
    *,
    refuse_unknown_items: bool = False,
    separator: str | None = None,
    encoding: str = "utf-8",
    skip_bad_rows: bool = False,
) -> GivenLists:
    """Reads and checks lists.

    Args:
        table: a path (CSV, TSV, Parquet, Arrow), or a polars, pandas or pyarrow table.
        users: whose type the ids get; users that it lacks are kept.
        items: whose type the ids get; items that it lacks are kept, unless they are to be refused.
        refuse_unknown_items: an item that ``items`` lacks is a bad row.
        separator: of a text file; by default "," and a tab in .tsv files.
        encoding: of a text file.
        skip_bad_rows: drop, count and list bad rows instead of raising.

    Raises:
        ValueError: naming file, line or row, column, value and what to do: an id is missing or of another type than
            the vocabulary's, an item stands twice in one list, or a score is no finite number.
        FileNotFoundError: there is no such file.
    """
    loaded = load_table(
        table, [*ID_COLUMNS, "score"], separator=separator, encoding=encoding, skip_bad_rows=skip_bad_rows
    )
    require_columns(loaded.frame.columns, ID_COLUMNS, loaded.source)
    if loaded.frame.is_empty():
        raise ValueError(f"{loaded.source}: no lists: the table has no rows")
    problems = Problems(loaded.source, loaded.line_of, {})
    columns = []
    for name, vocabulary in zip(ID_COLUMNS, (users, items), strict=True):
        columns.append(check_ids_like(loaded.frame[name], name, problems, vocabulary.id_type, loaded.is_text))
    if refuse_unknown_items:
        unknown = pl.Series(items.rows(columns[1]) == UNKNOWN) & columns[1].is_not_null()
        problems.add(unknown, "item_id", loaded.frame["item_id"], "no such item in the data set")
    frame = pl.DataFrame(columns)
    again = ~frame.to_struct().is_first_distinct() & columns[0].is_not_null() & columns[1].is_not_null()
    problems.add(again, "item_id", loaded.frame["item_id"], "stands twice in the list of its user")
    if "score" in loaded.frame.columns:
        scores = loaded.frame["score"].cast(pl.Float64, strict=False)
        problems.add(~scores.is_finite().fill_null(False), "score", loaded.frame["score"], "not a finite number")
        frame = frame.with_columns(scores)
    frame, dropped = problems.settle(frame, skip_bad_rows)
    best_first = pl.col("item_id")
    if "score" in frame.columns:
        best_first = best_first.sort_by("score", descending=True, maintain_order=True)
    lists = frame.group_by("user_id", maintain_order=True).agg(best_first)
    return GivenLists(lists["user_id"], lists["item_id"], loaded.source, loaded.skipped + dropped)
