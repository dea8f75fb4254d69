"""table_writer: a large table written batch by batch, to a temporary name, then renamed: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

JSON_LINES = (".jsonl", ".ndjson")
KINDS = (".parquet", ".csv", *JSON_LINES)


def check_kind(path: Path) -> None:
    """Whether tables can be written to such a file; to be asked before any work is done.

    Raises:
        ValueError: the ending is of no known kind.
    """
    if path.suffix.lower() not in KINDS:
        raise ValueError(f"{path}: unknown kind of file {path.suffix!r}; known are {', '.join(KINDS)}")


@contextmanager
def table_writer(path: Path, schema: pl.Schema) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Writes frames, one below the other, by the ending of the file's name; in memory is one at a time.

    Args:
        path: the file; one that is there is replaced when the block ends without an error, and only then.
        schema: columns and types; every frame is brought to them.

    Yields:
        The function that writes a frame.
    """
    check_kind(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            if path.suffix.lower() == ".parquet":
                with pq.ParquetWriter(stream, pl.DataFrame(schema=schema).to_arrow().schema) as parquet:
                    yield lambda frame: parquet.write_table(_typed(frame, schema).to_arrow())
            elif path.suffix.lower() == ".csv":
                pl.DataFrame(schema=schema).write_csv(stream)
                yield lambda frame: _typed(frame, schema).write_csv(stream, include_header=False)
            else:
                yield lambda frame: _typed(frame, schema).write_ndjson(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _typed(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    return frame.select(pl.col(name).cast(kind) for name, kind in schema.items())
