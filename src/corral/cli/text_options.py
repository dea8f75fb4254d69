"""--separator and --encoding: of every command that reads a text table."""

from __future__ import annotations

from typing import Annotated

import typer


def _separator(text: str) -> str:
    """As typed: a tab is hard to type in a shell."""
    return "\t" if text in ("tab", "\\t") else text


SeparatorOption = Annotated[
    str | None,
    typer.Option(
        parser=_separator, metavar="CHARACTER", help="Of text tables: ';', '|', tab; by default a comma (.tsv: tab)."
    ),
]
EncodingOption = Annotated[str, typer.Option(help="Of text tables, for example cp1252, latin-1, utf-16.")]
