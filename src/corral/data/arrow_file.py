"""One column in an Arrow IPC file: written to any stream, opened memory-mapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa


def write_arrow_column(stream: Any, column: str, values: pa.Array) -> None:
    """Writes one column as an Arrow IPC file, in one record batch, to a binary stream that stays open."""
    table = pa.Table.from_arrays([values], [column])
    sink = pa.PythonFile(stream, mode="w")
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(len(table), 1))


def open_arrow_column(path: str | Path, column: str) -> pa.Array:
    """The column of an Arrow IPC file, memory-mapped.

    Raises:
        ValueError: the file is not Arrow, lacks the column, or is damaged.
    """
    try:
        with pa.memory_map(str(path)) as source:
            values = pa.ipc.open_file(source).read_all().column(column)
    except (pa.ArrowInvalid, KeyError, OSError) as error:
        raise ValueError(f"{path}: damaged, or not the Arrow file expected ({error})") from error
    if values.num_chunks == 1:
        return values.chunk(0)
    return values.combine_chunks()
