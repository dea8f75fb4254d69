"""SkippedRows: bad rows of a table, raised for or dropped, counted and listed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import polars as pl

MAX_EXAMPLES = 10
# Ends the error of a bad row where whoever reads the table can have such rows dropped.
WAY_OUT = ", or pass skip_bad_rows=True (--skip-bad-rows) to drop and list such rows"

LineOf = int | Callable[[int], int] | None
"""Where row i (from 0) of a frame stands in its file: line ``i + n``, line ``f(i)``, or unknown."""


@dataclass(frozen=True)
class SkippedRow:
    """One bad row that was dropped.

    Attributes:
        file: where it came from.
        row: its line in a text file (from 1), else its row (from 0).
        column: the column that was bad.
        value: the bad value, as text.
        reason: what is wrong with it.
        place: what ``row`` is, line or row.
    """

    file: str
    row: int
    column: str
    value: str
    reason: str
    place: str = "line"


@dataclass(frozen=True)
class SkippedRows:
    """How many bad rows were dropped, and the first of them."""

    count: int = 0
    examples: tuple[SkippedRow, ...] = ()

    def __add__(self, other: SkippedRows) -> SkippedRows:
        return SkippedRows(self.count + other.count, (self.examples + other.examples)[:MAX_EXAMPLES])

    def __str__(self) -> str:
        lines = [f"{self.count} bad rows skipped" + (", the first:" if self.examples else "")]
        lines += [f"  {e.file}, {e.place} {e.row}, column {e.column!r}: {e.value}: {e.reason}" for e in self.examples]
        return "\n".join(lines)


@dataclass
class Problems:
    """Bad rows found so far, column by column.

    Attributes:
        source: the file's name, for messages.
        line_of: see ``LineOf``.
        names: the columns' names in the file.
        found: (rows, column, raw values, reason).
        first_row: where there are no lines, the row of the source that is row 0 here.
        may_skip: who reads the table can have bad rows dropped: the error says how.
    """

    source: str
    line_of: LineOf
    names: dict[str, str]
    found: list[tuple[np.ndarray, str, pl.Series, str]] = field(default_factory=list)
    first_row: int = 0
    may_skip: bool = True

    def add(self, bad: pl.Series, column: str, raw: pl.Series, reason: str) -> None:
        rows = bad.fill_null(False).arg_true().to_numpy()
        if len(rows):
            self.found.append((rows, self.names.get(column, column), raw, reason))

    def examples(self) -> list[SkippedRow]:
        """The first bad rows in the file's order, one reason a row."""
        first: dict[int, SkippedRow] = {}
        for rows, column, raw, reason in self.found:
            for row in rows[:MAX_EXAMPLES].tolist():
                if row not in first:
                    place = self._place(row)
                    first[row] = SkippedRow(self.source, place, column, _show(raw[row]), reason, self._where)
        return [first[row] for row in sorted(first)][:MAX_EXAMPLES]

    def settle(self, frame: pl.DataFrame, skip_bad_rows: bool) -> tuple[pl.DataFrame, SkippedRows]:
        """Drops the bad rows, or raises for the first one."""
        if not self.found:
            return frame, SkippedRows()
        bad = np.unique(np.concatenate([rows for rows, *_ in self.found]))
        examples = self.examples()
        if not skip_bad_rows:
            one = examples[0]
            origin = " (from 0)" if self.line_of is None else ""
            more = f" {len(bad)} rows are bad in all." if len(bad) > 1 else ""
            raise ValueError(
                f"{self.source}, {one.place} {one.row}{origin}, column {one.column!r}: {one.value}: {one.reason}."
                f"{more} Correct the data{WAY_OUT if self.may_skip else ''}"
            )
        keep = np.ones(len(frame), dtype=bool)
        keep[bad] = False
        return frame.filter(pl.Series(keep)), SkippedRows(len(bad), tuple(examples))

    @property
    def _where(self) -> str:
        return "row" if self.line_of is None else "line"

    def _place(self, row: int) -> int:
        if self.line_of is None:
            return row + self.first_row
        return self.line_of(row) if callable(self.line_of) else row + self.line_of


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
