"""Lib-SibGMU: loans of a medical university's library.

``rslib_test.csv`` holds the loans (whole days), ``name_book.csv`` the titles. Of books the title (text) and
the UDC class (categorical: the part of the book's id before the slash) are kept. Left out: the reader's
semester, which changes from loan to loan and so is a feature of the request, which events do not carry; and
the cleaned full titles of ``books_ftext_format.csv``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl

from corral.data.interactions import Interactions
from corral.data.readers.delimited import folder_of, maker_file, needed_file, read_delimited

LICENCE = "CC BY 4.0. Lib-SibGMU, NTR Lab and Siberian State Medical University"
_LOANS = ("rslib_test.csv", "rslib_train.csv", "rslib.csv")


def read(path: str | Path, *, skip_bad_rows: bool = False) -> Interactions:
    """Reads the loans.

    Args:
        path: the maker's directory, or a file of loans (plain or ``.gz``) with the others beside it.
        skip_bad_rows: drop, count and list bad rows instead of raising.

    Raises:
        ValueError: naming file, line, value and what to do.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    folder = folder_of(path)
    file = needed_file(folder, _LOANS) if path.is_dir() else path
    wanted = ("id", "id_book", "date")
    table = read_delimited(file, ",", keep=wanted, header=True, quoted=True, skip_bad_rows=skip_bad_rows)
    table = table.typed({}, required=wanted, skip_bad_rows=skip_bad_rows)
    raw = table.frame["date"]
    date = raw.str.strip_chars().str.to_date("%Y-%m-%d", strict=False)
    problems = table.problems()
    problems.add(date.is_null(), "date", raw, "not a date such as 2016-02-05")
    columns = table.frame.select(user_id="id", item_id="id_book", timestamp=date.to_physical().cast(pl.Int64))
    table = table.without(problems, skip_bad_rows, columns)
    skipped = table.skipped
    books = table.frame.select(pl.col("item_id").unique(maintain_order=True))
    books = books.with_columns(udc=pl.col("item_id").str.extract(r"^([^/]+)/"))
    titles = maker_file(folder, ("name_book.csv",))
    if titles is not None:
        names = read_delimited(
            titles, ",", keep=("id_book", "name_book"), header=True, quoted=True, skip_bad_rows=skip_bad_rows
        )
        skipped += names.skipped
        # A book may have two spellings, and rows without an id are visits: the first spelling is taken.
        first = names.where(pl.col("id_book").is_not_null()).frame.group_by("id_book", maintain_order=True)
        title = first.agg(title=pl.col("name_book").drop_nulls().first())
        books = books.join(title, left_on="item_id", right_on="id_book", how="left", maintain_order="left")
    interactions = Interactions.of(
        table.frame,
        item_features=books.sort("item_id"),
        text_columns=("title",) if titles is not None else (),
        time_unit="days",
        source=str(file),
        licence=LICENCE,
        line_offset=table.line_of,
        skip_bad_rows=skip_bad_rows,
        skipped=skipped,
    )
    return replace(interactions, source=f"Lib-SibGMU, {file.name}")
