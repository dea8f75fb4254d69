"""Vocabularies, feature tables and user histories as files of a bundle: .npy, .arrow, JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from corral.data.atomic_directory import DirectoryFiles
from corral.data.features import FeatureColumn, FeatureKind, FeatureTable
from corral.data.vocabulary import Vocabulary
from corral.serving.histories import UserHistories
from corral.serving.serving_tables import ServingTables


def write_tables(files: DirectoryFiles, tables: ServingTables) -> dict[str, Any]:
    """Write the tables; returns what ``read_tables`` needs besides the files (JSON values)."""
    files.arrow("users.arrow", "id", tables.users.ids)
    files.arrow("items.arrow", "id", tables.items.ids)
    files.array("history_items.npy", tables.histories.items)
    files.array("history_offsets.npy", tables.histories.offsets)
    return {
        "as_of": tables.histories.as_of,
        "user_features": _write_features(files, "user_features", tables.user_features),
        "item_features": _write_features(files, "item_features", tables.item_features),
    }


def read_tables(directory: Path, described: dict[str, Any]) -> ServingTables:
    """The tables written by ``write_tables``; large columns are memory-mapped."""
    users, items = Vocabulary.open(directory / "users.arrow"), Vocabulary.open(directory / "items.arrow")
    histories = UserHistories(
        _array(directory / "history_items.npy"),
        _array(directory / "history_offsets.npy"),
        int(described["as_of"]),
    )
    return ServingTables(
        users,
        items,
        _read_features(directory, described["user_features"], len(users)),
        _read_features(directory, described["item_features"], len(items)),
        histories,
    )


def _write_features(files: DirectoryFiles, block: str, table: FeatureTable) -> list[dict[str, str]]:
    described = []
    for number, column in enumerate(table.columns.values()):
        # a column's name may hold anything, a file's may not
        stem = f"{block}/{number:03d}"
        described.append({"name": column.name, "kind": column.kind.value, "stem": stem})
        if column.texts is not None:
            files.arrow(f"{stem}.texts.arrow", "text", column.texts)
        files.array(f"{stem}.values.npy", column.values)
        if column.offsets is not None:
            files.array(f"{stem}.offsets.npy", column.offsets)
        if column.vocabulary is not None:
            files.arrow(f"{stem}.vocabulary.arrow", "id", column.vocabulary.ids)
    return described


def _read_features(directory: Path, described: list[dict[str, str]], rows: int) -> FeatureTable:
    columns = {}
    for one in described:
        kind, stem = FeatureKind(one["kind"]), directory / one["stem"]
        offsets = vocabulary = texts = None
        if kind is FeatureKind.TEXT:
            with pa.memory_map(f"{stem}.texts.arrow") as source:
                texts = pa.ipc.open_file(source).read_all().column("text").combine_chunks()
        if kind is FeatureKind.MULTI:
            offsets = _array(Path(f"{stem}.offsets.npy"))
        if kind in (FeatureKind.MULTI, FeatureKind.CATEGORICAL):
            vocabulary = Vocabulary.open(f"{stem}.vocabulary.arrow")
        values = _array(Path(f"{stem}.values.npy"))
        columns[one["name"]] = FeatureColumn(one["name"], kind, values, offsets, vocabulary, texts)
    return FeatureTable(rows, columns)


def _array(path: Path) -> np.ndarray:
    # an empty array (a header alone) cannot be mapped
    if path.stat().st_size <= 128:
        return np.load(path, allow_pickle=False)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    # a plain view: indexing a np.memmap costs several times as much per call
    return np.asarray(array)
