"""table_writer: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from corral.cli.table_writer import table_writer


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path, schema = tmp_path / "lists.csv", pl.Schema({"user_id": pl.Int64()})
    path.write_text("the old one")

    def frames() -> Iterator[pl.DataFrame]:
        yield pl.DataFrame({"user_id": [1]})
        raise RuntimeError("the second batch fails")

    def write_all() -> None:
        with table_writer(path, schema) as write:
            for frame in frames():
                write(frame)

    with pytest.raises(RuntimeError, match="second batch"):
        write_all()
    assert path.read_text() == "the old one"
    assert os.listdir(tmp_path) == ["lists.csv"]
    with table_writer(path.with_suffix(".parquet"), schema):
        pass
    assert pl.read_parquet(path.with_suffix(".parquet")).schema == schema
