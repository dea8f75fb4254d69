"""MovieLens: film ratings by GroupLens, in each of the forms they were published in.

100k: ``u.data``, ``u.item``, ``u.user``. 1M and 10M: ``ratings.dat``, ``movies.dat`` and (1M) ``users.dat``,
separated by ``::``. 20M, 25M, 32M and latest: ``ratings.csv`` and ``movies.csv``.

Kept: the rating as value; of films title (text), year (numeric, out of the title) and genres; of users
gender, occupation and age (in 1M a class of ages: categorical; in 100k years: numeric). Left out: tags, which
are written after the film was seen, links, and the zip code.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl

from corral.data.interactions import Interactions
from corral.data.readers.delimited import (
    DelimitedTable,
    folder_of,
    maker_file,
    needed_file,
    read_delimited,
)
from corral.data.skipped_rows import SkippedRows

LICENCE = "GroupLens: research use, non-commercial; see the maker's README for redistribution"

RATINGS = ("u.data", "ratings.dat", "ratings.csv")
_EVENT_COLUMNS = ("user_id", "item_id", "value", "timestamp")
_EVENT_TYPES = {"user_id": pl.Int64, "item_id": pl.Int64, "value": pl.Float32, "timestamp": pl.Int64}
_CSV_NAMES = {"userId": "user_id", "movieId": "item_id", "rating": "value"}

# The order of the 19 flags in u.item; the first says that the genre is not known, so it becomes none.
_FLAGS = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *(
        "Fantasy",
        "Film-Noir",
        "Horror",
        "Musical",
        "Mystery",
        "Romance",
        "Sci-Fi",
        "Thriller",
        "War",
        "Western",
    ),
)
_YEAR = r"\((\d{4})(?:\s*[-–]\s*\d{0,4})?\)\s*$"


def read(path: str | Path, *, skip_bad_rows: bool = False) -> Interactions:
    """Reads MovieLens from the maker's directory, or from its ratings file with the others beside it.

    Args:
        path: directory with the maker's file names (plain or ``.gz``), or the ratings file.
        skip_bad_rows: drop, count and list bad rows instead of raising.

    Raises:
        ValueError: naming file, line, value and what to do.
        FileNotFoundError: there are no MovieLens ratings.
    """
    path = Path(path)
    folder = folder_of(path)
    ratings = needed_file(folder, RATINGS) if path.is_dir() else path
    kind = next((name for name in RATINGS if ratings.name.removesuffix(".gz") == name), None)
    if kind is None:
        raise ValueError(f"{path}: not a MovieLens ratings file; expected {', '.join(RATINGS)} (plain or .gz)")
    if kind == "ratings.csv":
        table = read_delimited(
            ratings,
            ",",
            keep=("userId", "movieId", "rating", "timestamp"),
            header=True,
            quoted=True,
            skip_bad_rows=skip_bad_rows,
        )
        table = DelimitedTable(table.frame.rename(_CSV_NAMES), table.source, table.lines, table.skipped)
    else:
        separator = "::" if kind == "ratings.dat" else "\t"
        table = read_delimited(ratings, separator, _EVENT_COLUMNS, skip_bad_rows=skip_bad_rows)
    table = table.typed(_EVENT_TYPES, required=_EVENT_COLUMNS, skip_bad_rows=skip_bad_rows)

    users = maker_file(folder, {"u.data": ["u.user"], "ratings.dat": ["users.dat"]}.get(kind, []))
    items = maker_file(folder, {"u.data": ["u.item"], "ratings.dat": ["movies.dat"]}.get(kind, ["movies.csv"]))
    user_features, item_features, skipped = None, None, table.skipped
    if users is not None:
        user_features, dropped = _users(users, skip_bad_rows)
        skipped += dropped
    if items is not None:
        item_features, dropped = _items(items, skip_bad_rows)
        skipped += dropped
    interactions = Interactions.of(
        table.frame,
        user_features=user_features,
        item_features=item_features,
        text_columns=("title",) if items is not None else (),
        source=str(ratings),
        licence=LICENCE,
        line_offset=table.line_of,
        skip_bad_rows=skip_bad_rows,
        skipped=skipped,
    )
    return replace(interactions, source=f"MovieLens, {ratings.name}")


def _users(path: Path, skip_bad_rows: bool) -> tuple[pl.DataFrame, SkippedRows]:
    if path.name.startswith("u.user"):
        columns, separator = ("user_id", "age", "gender", "occupation", "zip"), "|"
        types = {"user_id": pl.Int64, "age": pl.Float32}
    else:
        columns, separator = ("user_id", "gender", "age", "occupation", "zip"), "::"
        types = {"user_id": pl.Int64, "age": pl.Int64, "occupation": pl.Int64}
    table = read_delimited(path, separator, columns, skip_bad_rows=skip_bad_rows)
    table = table.typed(types, required=("user_id",), skip_bad_rows=skip_bad_rows)
    frame, skipped = table.features("user_id", skip_bad_rows=skip_bad_rows)
    return frame.select("user_id", "gender", "age", "occupation"), skipped


def _items(path: Path, skip_bad_rows: bool) -> tuple[pl.DataFrame, SkippedRows]:
    name = path.name.removesuffix(".gz")
    if name == "u.item":
        columns = ("item_id", "title", "release", "video_release", "address", *_FLAGS)
        table = read_delimited(path, "|", columns, skip_bad_rows=skip_bad_rows)
        flags = [pl.when(pl.col(flag) == "1").then(pl.lit(flag)) for flag in _FLAGS[1:]]
        genres = pl.concat_list(flags).list.drop_nulls()
    else:
        genres = pl.when(pl.col("genres") != "(no genres listed)").then(pl.col("genres").str.split("|"))
        if name == "movies.dat":
            table = read_delimited(path, "::", ("item_id", "title", "genres"), skip_bad_rows=skip_bad_rows)
        else:
            table = read_delimited(
                path,
                ",",
                keep=("movieId", "title", "genres"),
                header=True,
                quoted=True,
                skip_bad_rows=skip_bad_rows,
            )
            table = DelimitedTable(table.frame.rename({"movieId": "item_id"}), table.source, table.lines, table.skipped)
    table = table.typed({"item_id": pl.Int64}, required=("item_id",), skip_bad_rows=skip_bad_rows)
    frame, skipped = table.features("item_id", skip_bad_rows=skip_bad_rows)
    return frame.select(
        "item_id",
        "title",
        year=pl.col("title").str.extract(_YEAR).cast(pl.Float32),
        genres=genres.fill_null([]),
    ), skipped
