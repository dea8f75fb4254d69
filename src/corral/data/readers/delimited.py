"""Text files with a separator, as makers publish them: found, unpacked, decoded, cut into columns, typed.

Everything here works on whole columns; nothing is done row by row except to describe a bad one.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv

from corral.data.event_check import check_features
from corral.data.skipped_rows import LineOf, Problems, SkippedRow, SkippedRows

UNIT_SEPARATOR = "\x1f"
"""Stands in for separators of several characters, such as ``::``; no text file contains it."""

BLOCK_BYTES = 1 << 24
SHOWN_CHARACTERS = 120


@dataclass(frozen=True)
class DelimitedTable:
    """Columns of a text file, and the line of the file each row came from.

    Attributes:
        frame: strings, null where a field is empty, until ``typed`` gives columns their types.
        source: the file, for messages.
        lines: line of each row [n], counted from 1.
        skipped: bad rows dropped so far.
    """

    frame: pl.DataFrame
    source: str
    lines: np.ndarray
    skipped: SkippedRows = field(default_factory=SkippedRows)

    @property
    def line_of(self) -> LineOf:
        """Row -> line, in the form the checks of events and features take it."""
        lines = self.lines
        return lambda row: int(lines[row])

    def typed(
        self,
        types: Mapping[str, type[pl.DataType]],
        *,
        required: Iterable[str] = (),
        skip_bad_rows: bool = False,
    ) -> DelimitedTable:
        """Gives columns their types; a value that has not that type, or a missing required one, is bad."""
        problems = self.problems()
        columns: dict[str, pl.Series] = {}
        for name, dtype in types.items():
            raw = self.frame[name]
            columns[name] = raw.str.strip_chars().cast(dtype, strict=False)
            if columns[name].null_count() > raw.null_count():
                problems.add(raw.is_not_null() & columns[name].is_null(), name, raw, f"not {_SAID[dtype]}")
        for name in required:
            if self.frame[name].null_count():
                problems.add(self.frame[name].is_null(), name, self.frame[name], "missing")
        return self.without(problems, skip_bad_rows, self.frame.with_columns(**columns))

    def problems(self) -> Problems:
        """An empty list of bad rows of this file, to add to and give to ``without``."""
        return Problems(self.source, self.line_of, {})

    def without(self, problems: Problems, skip_bad_rows: bool, frame: pl.DataFrame | None = None) -> DelimitedTable:
        """The table without its bad rows, which are counted, or an error for the first."""
        frame = self.frame if frame is None else frame
        if not problems.found:
            return DelimitedTable(frame, self.source, self.lines, self.skipped)
        bad = np.unique(np.concatenate([rows for rows, *_ in problems.found]))
        frame, skipped = problems.settle(frame, skip_bad_rows)
        return DelimitedTable(frame, self.source, np.delete(self.lines, bad), self.skipped + skipped)

    def where(self, keep: pl.Expr) -> DelimitedTable:
        """The rows for which ``keep`` holds; the others are left out, not counted as bad."""
        mask = self.frame.select(keep.fill_null(False)).to_series()
        return DelimitedTable(self.frame.filter(mask), self.source, self.lines[mask.to_numpy()], self.skipped)

    def features(self, key: str, *, skip_bad_rows: bool = False) -> tuple[pl.DataFrame, SkippedRows]:
        """The table as checked features of users or items, unique in ``key``; and what was skipped in all."""
        frame, skipped = check_features(
            self.frame, key, source=self.source, line_offset=self.line_of, skip_bad_rows=skip_bad_rows
        )
        return frame, self.skipped + skipped


_SAID: dict[object, str] = {pl.Int64: "an integer", pl.Float32: "a number", pl.Float64: "a number"}


def folder_of(path: str | Path) -> Path:
    """The directory of the maker's files: ``path`` itself, or the one its file is in.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or directory")
    return path if path.is_dir() else path.parent


def maker_file(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of ``names`` that ``folder`` has, plain or with ``.gz``; None where it has none."""
    for name in names:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    return None


def needed_file(folder: Path, names: Sequence[str]) -> Path:
    """As ``maker_file``.

    Raises:
        FileNotFoundError: none is there; names what was looked for and what there is.
    """
    found = maker_file(folder, names)
    if found is None:
        there = sorted(path.name for path in folder.iterdir())
        shown = ", ".join(there[:10]) + (", ..." if len(there) > 10 else "")
        raise FileNotFoundError(
            f"{folder}: expected {' or '.join(names)} (plain or .gz) here, found {shown or 'nothing'}; "
            "give the directory with the maker's own file names"
        )
    return found


def read_bytes(path: Path) -> bytes:
    """The file's bytes, unpacked if it is gzip, as UTF-8 without a byte order mark.

    Bytes that are no UTF-8 are taken for latin-1, which is what the old sets use (accented letters of latin-1
    are practically never valid UTF-8, so the two do not get mixed up).

    Raises:
        ValueError: the file is empty, truncated or damaged.
    """
    try:
        body = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: truncated or damaged ({error}); get the file again") from error
    body = body.removeprefix(b"\xef\xbb\xbf")
    if not body.strip():
        raise ValueError(f"{path}: the file is empty; get it again")
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        body = body.decode("latin-1").encode("utf-8")
    return body


def read_delimited(
    path: Path,
    separator: str,
    columns: Sequence[str] | None = None,
    *,
    keep: Sequence[str] | None = None,
    header: bool = False,
    quoted: bool = False,
    skip_bad_rows: bool = False,
) -> DelimitedTable:
    """Reads a text file into columns of strings.

    Args:
        path: plain or ``.gz``, UTF-8 or latin-1.
        separator: of one character or more.
        columns: names of the fields of a line, in order; None where the header says them.
        keep: the columns wanted (and, with a header, needed); all by default.
        header: the first line names the columns.
        quoted: fields may stand in ``"``, and then hold separators and line ends.
        skip_bad_rows: drop lines with too few or too many fields, count them and list the first.

    Raises:
        ValueError: an empty or damaged file, a missing column, a line with the wrong number of fields.
    """
    body = read_bytes(path)
    if len(separator) > 1:
        # A C-speed replacement, so that the parser, which knows separators of one byte, can be used.
        body = body.replace(separator.encode(), UNIT_SEPARATOR.encode())
    shown, separator = separator, separator if len(separator) == 1 else UNIT_SEPARATOR
    if header:
        first = body.split(b"\n", 1)[0].decode("utf-8").rstrip("\r")
        columns = [name.strip() for name in next(csv.reader([first], delimiter=separator))]
    assert columns is not None, "columns are named by the caller or by the header"
    missing = [name for name in keep or () if name not in columns]
    if missing:
        raise ValueError(f"{path}, line 1: no column {missing[0]!r}; the header has {', '.join(columns)}")
    table, wrong = _parse(path, body, separator, list(columns), keep or columns, header, quoted)
    lines = np.arange(1 + header, 1 + header + len(table) + len(wrong))
    lines = np.delete(lines, [number - 1 - header for number, *_ in wrong])
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    frame = frame.with_columns(pl.all().replace("", None))
    blank = frame.select(pl.all_horizontal(pl.all().is_null())).to_series()
    if blank.any():
        frame, lines = frame.filter(~blank), lines[~blank.to_numpy()]
    examples = tuple(
        SkippedRow(
            str(path),
            number,
            columns[0],
            _cut(repr(text.replace(UNIT_SEPARATOR, shown))),
            _fields(expected, actual),
        )
        for number, expected, actual, text in wrong
    )
    if examples and not skip_bad_rows:
        one = examples[0]
        raise ValueError(
            f"{path}, line {one.row}: {one.value}: {one.reason}. "
            "Correct the file, or pass skip_bad_rows=True (--skip-bad-rows) to drop and list such rows"
        )
    if frame.is_empty():
        raise ValueError(f"{path}: no rows{' after the header' if header else ''}; get the file again")
    return DelimitedTable(frame, str(path), lines, SkippedRows() + SkippedRows(len(examples), examples))


def _parse(
    path: Path,
    body: bytes,
    separator: str,
    columns: list[str],
    keep: Sequence[str],
    header: bool,
    quoted: bool,
) -> tuple[pa.Table, list[tuple[int, int, int, str]]]:
    wrong: list[tuple[int, int, int, str]] = []

    def note(row: pyarrow.csv.InvalidRow) -> str:
        if row.text.strip():
            wrong.append((row.number, row.expected_columns, row.actual_columns, row.text))
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(body),
            # One thread: only then does the parser say which line is wrong.
            read_options=pyarrow.csv.ReadOptions(
                column_names=columns, use_threads=False, skip_rows=int(header), block_size=BLOCK_BYTES
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=separator,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
                ignore_empty_lines=False,
                invalid_row_handler=note,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.large_string()),
                include_columns=list(dict.fromkeys(keep)),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: cannot be read as text with a separator ({error})") from error
    return table, wrong


def _fields(expected: int, actual: int) -> str:
    return f"{actual} fields where {expected} were expected"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."
