"""Ids from the command line: one, several separated by commas, or a file of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def one_id(text: str, id_type: str, what: str) -> Any:
    """An id in the vocabulary's type.

    Raises:
        ValueError: the ids are whole numbers, and this is none.
    """
    if id_type == "string":
        return text
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{what} {text!r}: the ids of this data set are whole numbers") from error


def given_ids(text: str, id_type: str, what: str, option: str) -> list[Any]:
    """Ids separated by commas, or of the file behind ``@``, one a line; empty ones are left out.

    Args:
        text: as typed.
        id_type: of the vocabulary: "int64" or "string".
        what: what they are ids of.
        option: where they were given, for messages.

    Raises:
        ValueError: naming the file and line, or the id.
    """
    if not text.startswith("@"):
        return [one_id(part, id_type, what) for part in text.split(",") if part]
    path = Path(text[1:])
    if not path.is_file():
        raise FileNotFoundError(f"{option} {text}: {path}: no such file")
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return [
        one_id(line.strip(), id_type, f"{path}, line {number}: {what}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
