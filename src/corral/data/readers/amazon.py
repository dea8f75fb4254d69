"""Amazon product reviews: the sequence files S3-Rec made of the 2014 release, and the plain rating files.

Sequence files hold ``user item item ...`` a line, oldest first: an order but no times. Beside them a JSON
file gives each item's attributes (category and brand, as numbers whose names are not published): kept,
multi-valued. Rating files have no header and one rating a line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from corral.data.interactions import Interactions
from corral.data.readers.delimited import folder_of, read_bytes, read_delimited
from corral.data.skipped_rows import SkippedRow, SkippedRows

LICENCE = "none stated; Amazon product reviews of J. McAuley, UCSD, given for research"
_ATTRIBUTES = "_item2attributes.json"
_NUMBERS = r"^\s*\d+(?:\s+\d+)*\s*$"

COLUMNS_2014 = ("user_id", "item_id", "value", "timestamp")
COLUMNS_2018 = ("item_id", "user_id", "value", "timestamp")


def read(path: str | Path, *, skip_bad_rows: bool = False) -> Interactions:
    """Reads a sequence file and, where it is there, the attributes file beside it.

    Args:
        path: ``NAME.txt`` (plain or ``.gz``), or the directory that holds exactly one.
        skip_bad_rows: drop, count and list bad lines instead of raising. A line is one user.

    Raises:
        ValueError: naming file, line, value and what to do.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    folder = folder_of(path)
    file = _only_sequence_file(folder) if path.is_dir() else path
    events, skipped = _events(file, skip_bad_rows)
    stem = file.name.removesuffix(".gz").removesuffix(".txt")
    attributes = next(
        (
            folder / f"{stem}{_ATTRIBUTES}{end}"
            for end in ("", ".gz")
            if (folder / f"{stem}{_ATTRIBUTES}{end}").is_file()
        ),
        None,
    )
    interactions = Interactions.of(
        events,
        item_features=None if attributes is None else _attributes(attributes),
        time_unit="order",
        source=str(file),
        licence=LICENCE,
        skip_bad_rows=skip_bad_rows,
        skipped=skipped,
    )
    return replace(interactions, source=f"Amazon, {file.name}")


def read_ratings(
    path: str | Path, *, columns: Sequence[str] = COLUMNS_2014, skip_bad_rows: bool = False
) -> Interactions:
    """Reads a rating file without header (``ratings_Beauty.csv`` of 2014, ``All_Beauty.csv`` of 2018).

    Args:
        path: the file, plain or ``.gz``.
        columns: what its four columns are; in 2014 the user comes first, in 2018 the item.
        skip_bad_rows: drop, count and list bad rows instead of raising.

    Raises:
        ValueError: naming file, line, value and what to do.
    """
    path = Path(path)
    folder_of(path)
    table = read_delimited(path, ",", columns, skip_bad_rows=skip_bad_rows)
    types = {"value": pl.Float32, "timestamp": pl.Int64}
    table = table.typed(types, required=columns, skip_bad_rows=skip_bad_rows)
    interactions = Interactions.of(
        table.frame,
        source=str(path),
        licence=LICENCE,
        line_offset=table.line_of,
        skip_bad_rows=skip_bad_rows,
        skipped=table.skipped,
    )
    return replace(interactions, source=f"Amazon, {path.name}")


def _only_sequence_file(folder: Path) -> Path:
    # Licences and the like are .txt files too; their names are not capitalised words.
    found = sorted(
        file
        for file in folder.iterdir()
        if file.name.removesuffix(".gz").endswith(".txt") and "README" not in file.name and "LICENSE" not in file.name
    )
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise FileNotFoundError(f"{folder}: expected one sequence file NAME.txt (plain or .gz), found {names}; name it")
    return found[0]


def _events(file: Path, skip_bad_rows: bool) -> tuple[pl.DataFrame, SkippedRows]:
    # One column, since nothing in these files is a unit separator; users have different numbers of items.
    table = read_delimited(file, "\x1f", ("line",), skip_bad_rows=skip_bad_rows)
    problems = table.problems()
    text = table.frame["line"]
    problems.add(~text.str.contains(_NUMBERS), "line", text, "not numbers with spaces between (user item item ...)")
    table = table.without(problems, skip_bad_rows)
    ids = table.frame["line"].str.extract_all(r"\d+").list.eval(pl.element().cast(pl.Int64))
    frame = pl.DataFrame({"user_id": ids.list.first(), "item_id": ids.list.slice(1), "line": table.lines})
    repeated = frame.filter(pl.col("user_id").is_duplicated())
    if len(repeated):
        raise ValueError(
            f"{file}, line {repeated['line'][-1]}: user {repeated['user_id'][-1]} has two lines; "
            "join them, oldest items first"
        )
    lonely = frame.filter(pl.col("item_id").list.len() == 0)
    if len(lonely) and not skip_bad_rows:
        raise ValueError(
            f"{file}, line {lonely['line'][0]}: user {lonely['user_id'][0]} has no items; "
            "remove the line, or pass skip_bad_rows=True (--skip-bad-rows)"
        )
    examples = tuple(
        SkippedRow(str(file), line, "line", str(user), "user without items")
        for user, line in lonely.select("user_id", "line").head(5).rows()
    )
    frame = frame.filter(pl.col("item_id").list.len() > 0).select("user_id", "item_id")
    return frame.explode("item_id"), table.skipped + SkippedRows(len(lonely), examples)


def _attributes(file: Path) -> pl.DataFrame:
    try:
        attributes = json.loads(read_bytes(file))
        keys = pl.Series("item_id", list(attributes), dtype=pl.String).cast(pl.Int64)
        values = pl.Series("attributes", list(attributes.values()), dtype=pl.List(pl.Int64))
    except (json.JSONDecodeError, AttributeError, TypeError, pl.exceptions.PolarsError) as error:
        raise ValueError(f'{file}: expected {{"item": [attribute, ...], ...}} ({error}); get the file again') from error
    return pl.DataFrame([keys, values])
