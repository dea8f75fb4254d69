"""What a page is made of: panels of paragraphs, facts, tables, charts and choices. Plain data, no HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

# The words of a cell, or words and, in small letters, what stands under them (a title and its id).
Cell = str | tuple[str, str]


class Mark(StrEnum):
    """How a table row or a paragraph stands out."""

    NONE = "plain"
    STRONG = "strong"
    HIT = "hit"
    BOUND = "bound"
    NOTE = "note"
    WARNING = "warning"


@dataclass(frozen=True)
class Heading:
    """Begins a part of a panel."""

    text: str
    kind: str = "heading"


@dataclass(frozen=True)
class Paragraph:
    """Some words; a ``WARNING`` is shown loudly."""

    text: str
    mark: Mark = Mark.NONE
    kind: str = "paragraph"


@dataclass(frozen=True)
class Facts:
    """Names with their values."""

    pairs: Mapping[str, str]
    kind: str = "facts"


@dataclass(frozen=True)
class Figure:
    """One number shown large.

    Attributes:
        name: what it is.
        value: the number.
        detail: a few words under it.
    """

    name: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Figures:
    """The numbers to look at first."""

    figures: Sequence[Figure]
    kind: str = "figures"


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    cells: Sequence[Cell]
    mark: Mark = Mark.NONE


@dataclass(frozen=True)
class Table:
    """A table; its first column names the row.

    Attributes:
        caption: what it shows.
        columns: their names.
        rows: their cells, one a column.
        words: names of the columns that hold words; the others hold numbers. The first always holds words.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]
    words: frozenset[str] = frozenset()
    kind: str = "table"

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row.cells) == len(self.columns), (self.caption, self.columns, row.cells)


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite chart.

    Attributes:
        name: stable, unique on a run's part of the page, fit for an id.
        caption: what it shows.
        label: what it says, for those who do not see it.
        spec: with the data inside, as wide as its container.
    """

    name: str
    caption: str
    label: str
    spec: Mapping[str, Any]
    kind: str = "chart"


@dataclass(frozen=True)
class Code:
    """Text shown as it is, letter by letter."""

    caption: str
    text: str
    kind: str = "code"


@dataclass(frozen=True)
class Choice:
    """Something to tick.

    Attributes:
        value: what the form then says.
        label: what a person reads.
        chosen: it is ticked already.
    """

    value: str
    label: Cell
    chosen: bool = False


@dataclass(frozen=True)
class Choices:
    """Boxes to tick, of a form that stands elsewhere on the page; for pages that a server answers.

    Attributes:
        form: its id.
        name: what the form calls them.
        legend: what they are.
        choices: from the top.
        button: what sends the form.
    """

    form: str
    name: str
    legend: str
    choices: Sequence[Choice]
    button: str
    kind: str = "choices"


@dataclass(frozen=True)
class SideBySide:
    """Blocks beside each other where the window is wide enough."""

    blocks: Sequence[Facts | Table | Chart | Choices]
    kind: str = "side"


Block = Heading | Paragraph | Facts | Figures | Table | Chart | Code | Choices | SideBySide


@dataclass(frozen=True)
class Panel:
    """A section of the page.

    Attributes:
        id: stable; links and tests find the panel by it.
        title: its heading.
        blocks: what is in it, from the top.
    """

    id: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Part:
    """The panels of one run, or of the comparison.

    Attributes:
        id: stands before the panels' ids; "" where the page has one part only.
        title: "" where the page has one part only.
        panels: from the top.
    """

    id: str
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Page:
    """All of it.

    Attributes:
        title: of the window and on top.
        lead: a sentence below.
        parts: at least one.
        foot: the last line.
    """

    title: str
    lead: str
    parts: Sequence[Part]
    foot: str = ""
