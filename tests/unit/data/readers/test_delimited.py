"""Text files with a separator: encodings, separators, line numbers, damage."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from corral.data.readers.delimited import read_bytes, read_delimited

Write = Callable[..., Path]


def test_a_separator_of_two_characters(write: Write) -> None:
    path = write("a.dat", "1::a:b::x\n2::c::y\n") / "a.dat"
    table = read_delimited(path, "::", ("id", "name", "kind"))
    assert table.frame.rows() == [("1", "a:b", "x"), ("2", "c", "y")]
    assert table.lines.tolist() == [1, 2]


def test_quoted_fields_and_windows_line_ends(write: Write) -> None:
    path = write("a.csv", 'id,name\r\n1,"a, ""b"""\r\n2,\r\n') / "a.csv"
    table = read_delimited(path, ",", header=True, quoted=True)
    assert table.frame.rows() == [("1", 'a, "b"'), ("2", None)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_encodings(write: Write, encoding: str) -> None:
    path = write("a.csv.gz", "id,name\n1,Amélie\n", encoding) / "a.csv.gz"
    assert read_delimited(path, ",", header=True).frame.rows() == [("1", "Amélie")]


def test_blank_lines_are_no_rows_and_do_not_shift_line_numbers(write: Write) -> None:
    path = write("a.tsv", "1\ta\n\n2\tb\n\n\n3\n") / "a.tsv"
    with pytest.raises(ValueError, match=r"a.tsv, line 6: '3': 1 fields where 2 were expected"):
        read_delimited(path, "\t", ("id", "name"))
    table = read_delimited(path, "\t", ("id", "name"), skip_bad_rows=True)
    assert table.lines.tolist() == [1, 3]
    assert table.skipped.count == 1
    assert table.skipped.examples[0].row == 6


def test_lines_stay_right_after_dropped_ones(write: Write) -> None:
    path = write("a.dat", "1::2\nwrong\n3::x\n5::6\n7::8::9\n11::y\n") / "a.dat"
    table = read_delimited(path, "::", ("a", "b"), skip_bad_rows=True)
    assert table.lines.tolist() == [1, 3, 4, 6]
    with pytest.raises(ValueError, match=r"a.dat, line 3, column 'b': 'x': not an integer"):
        table.typed({"a": pl.Int64, "b": pl.Int64})
    typed = table.typed({"a": pl.Int64, "b": pl.Int64}, skip_bad_rows=True)
    assert typed.frame.rows() == [(1, 2), (5, 6)]
    assert typed.lines.tolist() == [1, 4]
    assert typed.skipped.count == 4
    assert {example.row for example in typed.skipped.examples} == {2, 3, 5, 6}
    assert "'7::8::9'" in str(typed.skipped)


def test_missing_column_is_named_with_the_header(write: Write) -> None:
    path = write("a.csv", "user,item\n1,2\n") / "a.csv"
    with pytest.raises(ValueError, match=r"line 1: no column 'time'; the header has user, item"):
        read_delimited(path, ",", keep=("user", "time"), header=True)


def test_missing_required_value(write: Write) -> None:
    path = write("a.csv", "user,item\n1,2\n,3\n") / "a.csv"
    table = read_delimited(path, ",", header=True)
    with pytest.raises(ValueError, match=r"line 3, column 'user': None: missing"):
        table.typed({"user": pl.Int64}, required=("user",))


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_empty_files(write: Write, text: str) -> None:
    with pytest.raises(ValueError, match="the file is empty"):
        read_delimited(write("a.csv", text) / "a.csv", ",", ("a", "b"))


def test_header_without_rows(write: Write) -> None:
    with pytest.raises(ValueError, match="no rows after the header"):
        read_delimited(write("a.csv", "a,b\n") / "a.csv", ",", header=True)


def test_truncated_gzip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"1,2\n" * 1000)[:-10])
    with pytest.raises(ValueError, match=r"a.csv.gz: truncated or damaged"):
        read_bytes(path)
    path.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="truncated or damaged"):
        read_bytes(path)
