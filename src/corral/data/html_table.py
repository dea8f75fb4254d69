"""html_table: a small table as HTML, for what notebooks show of an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_RIGHT = ' style="text-align: right"'


def html_table(title: str, columns: Mapping[str, Sequence[object]], *, notes: Sequence[str] = ()) -> str:
    """A table with a caption, and lines of small print below.

    Args:
        title: the caption.
        columns: values by the column's name, all of one length; None is an empty cell, floats get four decimals.
        notes: further lines.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in zip(*columns.values(), strict=True))
    small = "".join(f"<div><small>{escape(note)}</small></div>" for note in notes)
    caption = f'<caption style="text-align: left"><b>{escape(title)}</b></caption>'
    return f"<div><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{small}</div>"


def _cell(value: object) -> str:
    if value is None:
        return "<td></td>"
    if isinstance(value, float):
        return f"<td{_RIGHT}>{value:.4f}</td>"
    if isinstance(value, int):
        return f"<td{_RIGHT}>{value:,}</td>"
    return f"<td>{escape(str(value))}</td>"
