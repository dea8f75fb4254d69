"""HetRec 2011 Last.fm 2K: music; dated tag assignments, and listening counts without times.

``read`` gives the tag assignments as events: one event for each (user, artist, day), its value the number of
tags given. ``read_listening`` gives the listening counts: one event a pair, its value the count, in no order
of time. Of artists the name (text) is kept. Tags are not made features of artists, since most were given
after the events they would explain. Five published dates are impossible (1956, 1957, 1979: before Last.fm
was); such rows are always dropped and counted as skipped, as are all of ``read``'s dates outside the data
set's years.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl

from corral.data.interactions import Interactions
from corral.data.readers.delimited import folder_of, maker_file, needed_file, read_delimited
from corral.data.skipped_rows import SkippedRows

LICENCE = "none stated; GroupLens give it for non-commercial use; cite last.fm and HetRec 2011"
FIRST_YEAR, LAST_YEAR = 2002, 2011  # Last.fm was founded in 2002; the data set was released in 2011

_TAG_FILE = "user_taggedartists.dat"
_LISTENING_FILE = "user_artists.dat"
_TAG_COLUMNS = ("userID", "artistID", "tagID", "day", "month", "year")
_LISTENING_COLUMNS = ("userID", "artistID", "weight")


def read(path: str | Path, *, skip_bad_rows: bool = False) -> Interactions:
    """Reads the tag assignments as events, a day's resolution.

    Args:
        path: the maker's directory, or the file of tag assignments (plain or ``.gz``).
        skip_bad_rows: drop, count and list bad rows instead of raising.

    Raises:
        ValueError: naming file, line, value and what to do.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    folder = folder_of(path)
    file = needed_file(folder, (_TAG_FILE,)) if path.is_dir() else path
    table = read_delimited(file, "\t", keep=_TAG_COLUMNS, header=True, skip_bad_rows=skip_bad_rows)
    table = table.typed(dict.fromkeys(_TAG_COLUMNS, pl.Int64), required=_TAG_COLUMNS, skip_bad_rows=skip_bad_rows)
    problems = table.problems()
    year = table.frame["year"]
    problems.add(
        ~year.is_between(FIRST_YEAR, LAST_YEAR),
        "year",
        year,
        f"impossible: outside {FIRST_YEAR} to {LAST_YEAR}",
    )
    table = table.without(problems, skip_bad_rows=True)
    text = table.frame.select(pl.format("{}-{}-{}", "year", "month", "day")).to_series()
    date = text.str.to_date("%Y-%m-%d", strict=False)
    problems = table.problems()
    problems.add(date.is_null(), "day", text, "not a date (year-month-day)")
    columns = table.frame.with_columns(timestamp=date.to_physical().cast(pl.Int64))
    table = table.without(problems, skip_bad_rows, columns)
    events = table.frame.group_by("userID", "artistID", "timestamp", maintain_order=True).agg(
        value=pl.len().cast(pl.Float32)
    )
    return _interactions(events, folder, file, "days", table.skipped, skip_bad_rows)


def read_listening(path: str | Path, *, skip_bad_rows: bool = False) -> Interactions:
    """Reads the listening counts: pairs without time, so no split by time or order means anything for them.

    Args:
        path: the maker's directory, or the file of listening counts (plain or ``.gz``).
        skip_bad_rows: drop, count and list bad rows instead of raising.

    Raises:
        ValueError: naming file, line, value and what to do.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    folder = folder_of(path)
    file = needed_file(folder, (_LISTENING_FILE,)) if path.is_dir() else path
    table = read_delimited(file, "\t", keep=_LISTENING_COLUMNS, header=True, skip_bad_rows=skip_bad_rows)
    types = {"userID": pl.Int64, "artistID": pl.Int64, "weight": pl.Float32}
    table = table.typed(types, required=_LISTENING_COLUMNS, skip_bad_rows=skip_bad_rows)
    events = table.frame.rename({"weight": "value"})
    return _interactions(events, folder, file, "order", table.skipped, skip_bad_rows)


def _interactions(
    events: pl.DataFrame, folder: Path, file: Path, time_unit: str, skipped: SkippedRows, skip_bad_rows: bool
) -> Interactions:
    artists, names = maker_file(folder, ("artists.dat",)), None
    if artists is not None:
        table = read_delimited(artists, "\t", keep=("id", "name"), header=True, skip_bad_rows=skip_bad_rows)
        table = table.typed({"id": pl.Int64}, required=("id",), skip_bad_rows=skip_bad_rows)
        names = table.frame.rename({"id": "item_id"})
        skipped += table.skipped
    interactions = Interactions.of(
        events.rename({"userID": "user_id", "artistID": "item_id"}),
        item_features=names,
        text_columns=("name",) if names is not None else (),
        time_unit=time_unit,
        source=str(file),
        licence=LICENCE,
        skip_bad_rows=skip_bad_rows,
        skipped=skipped,
    )
    return replace(interactions, source=f"HetRec 2011 Last.fm 2K, {file.name}")
