"""Ids from the command line: one, several separated by commas, or a file of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corral.data.vocabulary import Vocabulary


def given_ids(text: str, vocabulary: Vocabulary, what: str, option: str) -> list[Any]:
    """Ids separated by commas, or of the file behind ``@``, one a line; empty ones are left out.

    Args:
        text: as typed.
        vocabulary: whose type the ids have.
        what: what they are ids of.
        option: where they were given, for messages.

    Raises:
        ValueError: naming the file and line, or the id.
    """
    if not text.startswith("@"):
        return [vocabulary.parse(part.strip(), what) for part in text.split(",") if part.strip()]
    path = Path(text[1:])
    if not path.is_file():
        raise FileNotFoundError(f"{option} {text}: {path}: no such file")
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return [
        vocabulary.parse(line.strip(), f"{path}, line {number}: {what}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
