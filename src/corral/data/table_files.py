"""load_table: a file or an in-memory table -> a polars frame and where its rows stand in the file."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from corral.data.skipped_rows import MAX_EXAMPLES, WAY_OUT, LineOf, SkippedRow, SkippedRows

TEXT_SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": ",", ".tab": "\t"}
ARROW_SUFFIXES = (".arrow", ".feather", ".ipc")
PARQUET_SUFFIXES = (".parquet", ".pq")
# Python's reader, which finds the lines of bad rows, takes fields of 131,072 characters unless told; the frame's any.
csv.field_size_limit(2**31 - 1)
# What else text files are separated by, and how the command line takes it.
_SEPARATORS = {";": "';'", "\t": "tab", "|": "'|'"}
_ENCODING_HINT = ": give the file's encoding (--encoding cp1252? latin-1?)"


@dataclass(frozen=True)
class LoadedTable:
    """A table from outside, columns still as they came (strings where it was a text file).

    Attributes:
        frame: the rows.
        source: the file's name, or the kind of table.
        is_text: it came from a text file.
        line_of: row of the frame (from 0) -> line of the file; None where there are no lines.
        skipped: rows with too many fields that were dropped.
    """

    frame: pl.DataFrame
    source: str
    is_text: bool = False
    line_of: LineOf = None
    skipped: SkippedRows = field(default_factory=SkippedRows)


def load_table(
    table: str | Path | Any,
    columns: list[str] | None,
    *,
    separator: str | None = None,
    encoding: str = "utf-8",
    skip_bad_rows: bool = False,
    may_skip: bool = True,
) -> LoadedTable:
    """Loads a table; only ``columns`` of it where the format allows it (None: all).

    Args:
        table: a path, or a polars, pandas or pyarrow table.
        columns: their names.
        separator: of a text file, one byte; by default its suffix tells.
        encoding: of a text file.
        skip_bad_rows: lines with more fields than the header are dropped and counted.
        may_skip: the caller offers that: the error says how.

    Raises:
        ValueError: the file is empty, damaged, or of an unknown kind; a line has more fields than the header; the
            separator or the encoding is not the file's, or there is no such encoding.
        FileNotFoundError: there is no such file.
    """
    if not isinstance(table, str | Path):
        source = f"{type(table).__module__.split('.')[0]} table"
        return LoadedTable(_frame_of(table, source), source)
    path = Path(table)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty (0 bytes)")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else (suffixes or [""])[-1]
    if kind in TEXT_SEPARATORS or separator is not None:
        return _load_text(path, separator or TEXT_SEPARATORS[kind], encoding, skip_bad_rows, may_skip)
    if kind in PARQUET_SUFFIXES or kind in ARROW_SUFFIXES:
        return LoadedTable(_load_binary(path, columns, kind), str(path))
    raise ValueError(
        f"{path}: unknown kind of file {kind!r}; known are {', '.join(TEXT_SEPARATORS)} (also with .gz), "
        f"{', '.join(PARQUET_SUFFIXES + ARROW_SUFFIXES)}; for another text file give its separator (--separator)"
    )


def _load_binary(path: Path, columns: list[str] | None, kind: str) -> pl.DataFrame:
    parquet = kind in PARQUET_SUFFIXES
    try:
        names = list((pl.read_parquet_schema if parquet else pl.read_ipc_schema)(path))
        wanted = names if columns is None else [name for name in columns if name in names]
        if not wanted:
            return pl.DataFrame(schema=dict.fromkeys(names, pl.Null))
        frame = pl.read_parquet(path, columns=wanted) if parquet else pl.read_ipc(path, columns=wanted)
    except (pl.exceptions.PolarsError, OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: damaged or truncated {kind[1:]} file ({reason}): fetch or write it again") from error
    # The columns that were not read are kept in name only, so that a missing one can name its nearest.
    if columns is not None and len(wanted) < len(columns):
        return frame.with_columns(pl.lit(None).alias(name) for name in names if name not in wanted)
    return frame


def _load_text(path: Path, separator: str, encoding: str, skip_bad_rows: bool, may_skip: bool) -> LoadedTable:
    if len(separator.encode()) != 1:
        raise ValueError(f"separator {separator!r}: must be one byte, for example ; or a tab")
    gzipped = path.suffix.lower() == ".gz"
    source: bytes | Path = path
    if gzipped or encoding.lower().replace("-", "") not in ("utf8", "utf8sig"):
        try:
            source = gzip.decompress(path.read_bytes()) if gzipped else path.read_bytes()
            source = source.decode(encoding).encode()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: damaged or truncated gzip file ({error}): fetch it again") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: byte {error.start} is not {encoding}{_ENCODING_HINT}") from error
        except LookupError as error:
            raise ValueError(
                f"encoding {encoding!r}: no such encoding; known are utf-8, cp1252, latin-1, ..."
            ) from error
    text = _Text(path, source, separator)
    with text.lines() as stream:
        header = next(csv.reader(stream, delimiter=separator), None)
    if not header:
        raise ValueError(f"{path}: the file has no header line")
    if len(header) == 1 and (likely := next((mark for mark in _SEPARATORS if mark in header[0]), None)):
        raise ValueError(
            f"{path}, line 1: {header[0]!r} is one column with separator {separator!r}: give the file's separator "
            f"(--separator {_SEPARATORS[likely]})"
        )
    _refuse_repeated(header, f"{path}, line 1")
    skipped = SkippedRows()
    try:
        frame = _read_csv(source, separator)
    except pl.exceptions.PolarsError as error:
        if "more fields" not in str(error):
            reason = str(error).splitlines()[0]
            hint = _ENCODING_HINT if "utf-8" in reason else ""
            raise ValueError(f"{path}: cannot be read as text with separator {separator!r} ({reason}){hint}") from error
        return _load_ragged(text, header, skip_bad_rows, may_skip)
    lines: LineOf = text.line_of
    blank = frame.select(pl.all_horizontal(pl.all().is_null())).to_series() if frame.width else pl.Series([])
    if len(blank) and blank.any():
        kept = (~blank).arg_true()
        frame = frame.filter(~blank)

        def lines(row: int) -> int:
            return text.line_of(int(kept[row]))

    return LoadedTable(frame, str(path), True, lines, skipped)


def _read_csv(source: bytes | Path, separator: str) -> pl.DataFrame:
    return pl.read_csv(source, separator=separator, infer_schema=False)


def _load_ragged(text: _Text, header: list[str], skip_bad_rows: bool, may_skip: bool) -> LoadedTable:
    """A file some lines of which have more fields than the header: slow, exact, only taken when needed."""
    rows: list[list[str | None]] = []
    lines: list[int] = []
    bad: list[SkippedRow] = []
    count = 0
    for line, fields in text.records():
        if not fields:
            continue
        if len(fields) <= len(header):
            rows.append([field or None for field in fields] + [None] * (len(header) - len(fields)))
            lines.append(line)
            continue
        reason = f"{len(fields)} fields where the header has {len(header)}"
        if not skip_bad_rows:
            raise ValueError(
                f"{text.path}, line {line}, column {header[-1]!r}: {fields!r}: {reason}. Quote fields that "
                f"contain the separator{WAY_OUT if may_skip else ''}"
            )
        count += 1
        if len(bad) < MAX_EXAMPLES:
            bad.append(SkippedRow(str(text.path), line, header[-1], repr(fields), reason))
    frame = pl.DataFrame(rows, schema=dict.fromkeys(header, pl.String), orient="row")
    return LoadedTable(frame, str(text.path), True, lines.__getitem__, SkippedRows(count, tuple(bad)))


@dataclass(frozen=True)
class _Text:
    """A text file, or its decoded bytes."""

    path: Path
    source: bytes | Path
    separator: str

    def lines(self) -> io.TextIOBase:
        if isinstance(self.source, bytes):
            return io.TextIOWrapper(io.BytesIO(self.source), encoding="utf-8-sig", errors="replace", newline="")
        return open(self.source, encoding="utf-8-sig", errors="replace", newline="")

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """(line where it starts, fields) of every record after the header; blank lines have no fields."""
        with self.lines() as stream:
            reader = csv.reader(stream, delimiter=self.separator)
            next(reader, None)
            start = reader.line_num + 1
            for fields in reader:
                yield start, fields
                start = reader.line_num + 1

    def line_of(self, row: int) -> int:
        """Line of data row ``row`` (from 0). Reads the file again: only asked when a row is bad."""
        for index, (line, _) in enumerate(self.records()):
            if index == row:
                return line
        return row + 2


def _refuse_repeated(names: list[str], place: str) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{place}: column {twice!r} appears twice: rename one of them")


def _frame_of(table: Any, source: str) -> pl.DataFrame:
    """A polars frame of a polars, pyarrow or pandas table; columns of mixed Python objects stay objects."""
    if isinstance(table, pl.LazyFrame):
        return table.collect()
    if isinstance(table, pl.DataFrame):
        return table
    if isinstance(table, pa.Table | pa.RecordBatch):
        _refuse_repeated(table.schema.names, source)
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        return frame
    if hasattr(table, "columns") and hasattr(table, "dtypes") and hasattr(table, "iloc"):
        _refuse_repeated([str(name) for name in table.columns], source)
        return pl.DataFrame([_pandas_column(str(name), table[name]) for name in table.columns])
    raise ValueError(f"a {type(table).__name__} is no table: give a path, or a polars, pandas or pyarrow table")


def _pandas_column(name: str, column: Any) -> pl.Series:
    try:
        return pl.Series(name, pl.from_arrow(pa.Array.from_pandas(column)))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return pl.Series(name, list(column), dtype=pl.Object)
