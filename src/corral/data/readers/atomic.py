"""RecBole's atomic files: ``NAME.inter`` and, where they are there, ``NAME.user`` and ``NAME.item``.

Tab separated, with a typed header (``user_id:token``, ``timestamp:float``, ``genre:token_seq``). Tokens
become categorical, token sequences (separated by spaces) multi-valued, floats numeric; sequences of floats
are left out, as are further columns of ``.inter``, which would be features of the request. A given split
(``NAME.train.inter``, ``NAME.valid.inter``, ``NAME.test.inter``) is kept. A column ``label`` parts clicks (1)
from impressions (0).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import polars as pl

from corral.data.event_check import check_events
from corral.data.interactions import ColumnMap, Interactions
from corral.data.readers.delimited import DelimitedTable, folder_of, maker_file, read_delimited
from corral.data.skipped_rows import SkippedRows

PARTS = ("train", "valid", "test")
TYPES = ("token", "token_seq", "float", "float_seq")
TEXT_COLUMNS = ("title", "movie_title", "item_title", "name", "item_name", "artist_name")
DEFAULT_COLUMNS = ColumnMap(value="rating", label="label")


def read(
    path: str | Path,
    *,
    columns: ColumnMap = DEFAULT_COLUMNS,
    text_columns: Collection[str] = TEXT_COLUMNS,
    time_unit: str = "seconds",
    skip_bad_rows: bool = False,
) -> Interactions:
    """Reads one data set of atomic files.

    Args:
        path: the ``.inter`` file, or a directory with the files of one data set (plain or ``.gz``).
        columns: field names in ``.inter``, without their types. Timestamp, value and label are taken where
            the file has them.
        text_columns: fields of users and items that are for display.
        time_unit: of the timestamps.
        skip_bad_rows: drop, count and list bad rows instead of raising.

    Raises:
        ValueError: naming file, line, value and what to do.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    folder = folder_of(path)
    files = _inter_files(path, folder)
    frames: list[pl.DataFrame] = []
    skipped = SkippedRows()
    for part, file in files:
        table, types = _read_typed(file, skip_bad_rows)
        wanted = {name: field for name, field in columns.present().items() if field in types}
        for name, field in (("user_id", columns.user), ("item_id", columns.item)):
            if name not in wanted:
                raise ValueError(f"{file}, line 1: no field {field!r}; the header has {', '.join(types)}")
        numbers = dict.fromkeys((name for name in wanted if name in ("timestamp", "value", "label")), pl.Float64)
        named = DelimitedTable(
            table.frame.select(pl.col(field).alias(name) for name, field in wanted.items()),
            table.source,
            table.lines,
            table.skipped,
        ).typed(numbers, required=wanted, skip_bad_rows=skip_bad_rows)
        frame = named.frame
        if part is not None:
            frame = frame.with_columns(part=pl.lit(PARTS.index(part), dtype=pl.Int8))
        if "label" in frame.columns:
            problems = named.problems()
            problems.add(~frame["label"].is_in([0.0, 1.0]), "label", frame["label"], "not 0 or 1")
            named = named.without(problems, skip_bad_rows, frame)
            frame = named.frame
        skipped += named.skipped
        frames.append(frame)
    every = pl.concat(frames)
    names = columns.present()
    checked, _ = check_events(every, source=str(files[0][1]), text=True, names=names, time_unit=time_unit)
    impressions = None
    if "label" in checked.columns:
        clicked, checked = checked["label"] == 1, checked.drop("label")
        checked, impressions = checked.filter(clicked), checked.filter(~clicked)
        if checked.is_empty():
            raise ValueError(f"{files[0][1]}: no row has the label 1")
    stem = files[0][1].name.split(".")[0]
    users, skipped_users = _features(folder, f"{stem}.user", columns.user, "user_id", text_columns, skip_bad_rows)
    items, skipped_items = _features(folder, f"{stem}.item", columns.item, "item_id", text_columns, skip_bad_rows)
    present = [*(users.columns if users is not None else ()), *(items.columns if items is not None else ())]
    interactions = Interactions.of(
        checked,
        impressions=impressions,
        user_features=users,
        item_features=items,
        text_columns=[name for name in text_columns if name in present],
        time_unit=time_unit if "timestamp" in every.columns else "order",
        source=str(files[0][1]),
        skip_bad_rows=skip_bad_rows,
        skipped=skipped + skipped_users + skipped_items,
    )
    return replace(interactions, source=f"RecBole atomic files, {stem}")


def _inter_files(path: Path, folder: Path) -> list[tuple[str | None, Path]]:
    """The ``.inter`` files with the part of a given split each is, or one file and None."""
    if path.is_file():
        return [(None, path)]
    names = sorted(file.name.removesuffix(".gz") for file in folder.iterdir())
    inter = [name for name in names if name.endswith(".inter")]
    split = {name.split(".")[-2] for name in inter if name.count(".") > 1}
    if set(PARTS) == split and len(inter) == len(PARTS):
        stem = inter[0].split(".")[0]
        found = [(part, maker_file(folder, [f"{stem}.{part}.inter"])) for part in PARTS]
        return [(part, file) for part, file in found if file is not None]
    if len(inter) != 1:
        raise FileNotFoundError(
            f"{folder}: expected one NAME.inter, or NAME.train.inter, NAME.valid.inter and NAME.test.inter "
            f"(plain or .gz), found {', '.join(inter) or 'none'}; name the file"
        )
    only = maker_file(folder, inter)
    assert only is not None, inter
    return [(None, only)]


def _read_typed(file: Path, skip_bad_rows: bool) -> tuple[DelimitedTable, dict[str, str]]:
    """The file with field names without types, and the type of each field."""
    table = read_delimited(file, "\t", header=True, skip_bad_rows=skip_bad_rows)
    types: dict[str, str] = {}
    for column in table.frame.columns:
        name, colon, kind = column.rpartition(":")
        if not colon or kind not in TYPES:
            raise ValueError(
                f"{file}, line 1: {column!r} is not name:type with type {', '.join(TYPES)}; "
                "is it an atomic file? A plain table is read with --format table"
            )
        types[name] = kind
    frame = table.frame.rename(dict(zip(table.frame.columns, types, strict=True)))
    return DelimitedTable(frame, table.source, table.lines, table.skipped), types


def _features(
    folder: Path, name: str, field: str, key: str, text_columns: Collection[str], skip_bad_rows: bool
) -> tuple[pl.DataFrame | None, SkippedRows]:
    file = maker_file(folder, [name])
    if file is None:
        return None, SkippedRows()
    table, types = _read_typed(file, skip_bad_rows)
    if field not in types:
        raise ValueError(f"{file}, line 1: no field {field!r}; the header has {', '.join(types)}")
    floats = {name: pl.Float32 for name, kind in types.items() if kind == "float"}
    table = table.typed(floats, required=[field], skip_bad_rows=skip_bad_rows)
    columns = [pl.col(field).alias(key)]
    for column, kind in types.items():
        if column == field or kind == "float_seq":
            continue
        is_list = kind == "token_seq" and column not in text_columns
        columns.append(pl.col(column).str.split(" ") if is_list else pl.col(column))
    table = DelimitedTable(table.frame.select(columns), table.source, table.lines, table.skipped)
    return table.features(key, skip_bad_rows=skip_bad_rows)
