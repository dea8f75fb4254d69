"""export_split: a data set and its split as files that others read: plain Parquet, or RecBole's atomic files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from corral.data.atomic_directory import DirectoryFiles, atomic_directory
from corral.data.dataset import Dataset, EventLog
from corral.data.feature_rows import feature_frame
from corral.data.split import Part, Split
from corral.data.vocabulary import FIRST_ROW

# What tells an export from any other directory; written last.
MARKER = "split.json"


def export_split(
    path: Path,
    dataset: Dataset,
    split: Split,
    *,
    atomic: bool = False,
    more: Mapping[str, pl.DataFrame] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes the events of each part with external ids, the features, and what the split is; whole or not at all.

    Parquet: ``train.parquet``, ``valid.parquet``, ``test.parquet`` (user_id, item_id, timestamp, and value where there
    is one), ``impressions.parquet``, ``users.parquet`` and ``items.parquet`` (features), as far as there are any.
    Atomic: ``NAME.train.inter``, ``NAME.valid.inter``, ``NAME.test.inter``, ``NAME.user``, ``NAME.item`` with typed
    headers; value is ``rating``; several values of one feature are separated by spaces, and their own become ``_``.
    Either way ``split.json``.

    Args:
        path: the directory to make.
        dataset: the events.
        split: of this data set.
        atomic: RecBole's form, in which impressions have no place.
        more: further tables, written as Parquet under these names.
        overwrite: replace an export that is there; anything else is never replaced.

    Raises:
        FileExistsError: the directory exists.
        ValueError: atomic, and an id or the data set's name holds what these files cannot.
    """
    if atomic and re.search(r"[./\s]", dataset.name):
        raise ValueError(f"data set name {dataset.name!r}: atomic files are named NAME.train.inter: no dots, no spaces")
    with atomic_directory(path, overwrite=overwrite, marker=MARKER) as files:
        for part in Part:
            frame = _events(dataset, dataset.events).filter(pl.Series(split.part == part))
            if atomic:
                _write_atomic(files, f"{dataset.name}.{part.name.lower()}.inter", frame.rename(_ATOMIC, strict=False))
            else:
                frame.write_parquet(files.directory / f"{part.name.lower()}.parquet")
        for key, known, vocabulary, plain, form in (
            ("user_id", dataset.user_features, dataset.users, "users", "user"),
            ("item_id", dataset.item_features, dataset.items, "items", "item"),
        ):
            features = feature_frame(known, key, vocabulary)
            if features is None:
                continue
            if atomic:
                _write_atomic(files, f"{dataset.name}.{form}", features)
            else:
                features.write_parquet(files.directory / f"{plain}.parquet")
        if dataset.impressions is not None and not atomic:
            _events(dataset, dataset.impressions).write_parquet(files.directory / "impressions.parquet")
        for name, table in (more or {}).items():
            table.write_parquet(files.directory / f"{name}.parquet")
        described = {
            "dataset": dataset.name,
            "data_hash": dataset.hash,
            "time_unit": dataset.header.time_unit,
            "split": split.name,
            "history_rule": split.history_rule.value,
            **split.facts,
            **({"warning": split.warning} if split.warning else {}),
            "licence": dataset.header.licence,
        }
        files.text(MARKER, json.dumps(described, indent=1, ensure_ascii=False, default=str) + "\n")


_ATOMIC = {"value": "rating"}


def _events(dataset: Dataset, log: EventLog) -> pl.DataFrame:
    """Events by external ids, sorted by user and time as the log is."""
    ids = {}
    for name, vocabulary, rows in (("user_id", dataset.users, log.user), ("item_id", dataset.items, log.item)):
        known = pl.from_arrow(vocabulary.ids)
        assert isinstance(known, pl.Series)
        ids[name] = known.gather(pl.Series(rows) - FIRST_ROW)
    values = {} if log.value is None else {"value": log.value}
    return pl.DataFrame({**ids, "timestamp": log.time, **values})


def _write_atomic(files: DirectoryFiles, name: str, frame: pl.DataFrame) -> None:
    pl.DataFrame(_typed(one) for one in frame).write_csv(files.directory / name, separator="\t", quote_style="never")


def _typed(column: pl.Series) -> pl.Series:
    """A column as text or numbers, its type in its name."""
    if column.name in ("user_id", "item_id"):
        ids = column.cast(pl.String)
        if ids.str.contains("[\t\r\n]").any():
            raise ValueError(f"{column.name}: an id holds a tab or a line break, which atomic files cannot")
        return ids.alias(f"{column.name}:token")
    if isinstance(column.dtype, pl.List):
        words = column.list.eval(pl.element().cast(pl.String).str.replace_all(r"\s+", "_"))
        return words.list.join(" ").alias(f"{column.name}:token_seq")
    if column.dtype.is_float():
        return column.fill_nan(None).alias(f"{column.name}:float")
    if column.name == "timestamp":
        return column.alias("timestamp:float")
    return column.cast(pl.String).str.replace_all("[\t\r\n]+", " ").alias(f"{column.name}:token")
