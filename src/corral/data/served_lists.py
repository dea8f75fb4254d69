"""Served lists, as a service logged them, as rows of what was shown."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from corral.data.dataset import Dataset
from corral.data.time_units import LATEST

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

# One line a list: {"user_id": ..., "time": ..., "item_ids": [...], ...}
SUFFIX = ".jsonl"


def read_served_lists(path: Path, dataset: Dataset) -> pl.DataFrame:
    """What a log of served lists says was shown: user_id, item_id, timestamp, each row once.

    A last line without an end was being written when a server was killed: it is left out.

    Args:
        path: a file of the log, or the directory of all.
        dataset: whose types of ids are expected.

    Raises:
        FileNotFoundError: there is no such file or directory, or no log in it.
        ValueError: naming file and line: no served list, or an id of another type than the data set's.
    """
    files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"{path}: no served lists (*{SUFFIX}) in it")
    rows: dict[str, list[Any]] = {"user_id": [], "item_id": [], "timestamp": []}
    types = [int if vocabulary.id_type == "int64" else str for vocabulary in (dataset.users, dataset.items)]
    for file in files:
        for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], 1):
            user, time, items = _list(line, types, f"{file}, line {number}")
            rows["user_id"] += [user] * len(items)
            rows["item_id"] += items
            rows["timestamp"] += [time] * len(items)
    kinds = [pl.Int64 if kind is int else pl.String for kind in types]
    schema = dict(zip(rows, (*kinds, pl.Int64), strict=True))
    return pl.DataFrame(rows, schema=schema).unique(maintain_order=True)


def forget_lists(path: Path, user: int | str) -> int:
    """Removes a user's lists from a log, file by file, each whole or not at all; says how many there were.

    Args:
        path: a file of the log, or the directory of all.
        user: external id.

    Raises:
        ValueError: a server is writing a file that holds the user.
    """
    removed = 0
    for file in sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]:
        lines = file.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if not _is_of(line, user)]
        if len(kept) == len(lines):
            continue
        if _is_being_written(file):
            raise ValueError(f"{file}: is being written: stop the server, forget, and start it again")
        temporary = file.with_name(f"{file.name}.tmp-{os.getpid()}")
        temporary.touch(mode=0o600)
        temporary.write_bytes(b"".join(kept))
        os.replace(temporary, file)
        removed += len(lines) - len(kept)
    return removed


def _is_of(line: bytes, user: int | str) -> bool:
    """Whether a line is of a user; a torn one counts if it holds the id at all."""
    try:
        return bool(json.loads(line)["user_id"] == user)
    except (ValueError, KeyError, TypeError):
        return json.dumps(user).encode() in line


def _is_being_written(file: Path) -> bool:
    """Whether a server holds the lock of a file."""
    if fcntl is None:
        return False
    with file.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _list(line: bytes, types: Sequence[type], where: str) -> tuple[Any, int, list[Any]]:
    """User, time and items of a line."""
    try:
        said = json.loads(line)
        user, time, items = said["user_id"], said["time"], said["item_ids"]
        if type(time) is not int or not 0 <= time <= LATEST or not isinstance(items, list):
            raise ValueError(f"time is a whole number from 0 to {LATEST}, and item_ids a list")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where}: no served list ({error}): remove the line, or name another file") from error
    for ids, kind, what in (([user], types[0], "user"), (items, types[1], "item")):
        for one in ids:
            if type(one) is not kind:
                wanted = "whole numbers" if kind is int else "texts"
                raise ValueError(f"{where}: {what} {one!r}: the ids of this data set are {wanted}")
    return user, time, items
