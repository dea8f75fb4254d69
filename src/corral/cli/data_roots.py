"""Where data sets are: the --root option, and a data set by its path or by its name under it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_ROOT = Path("data")
RootOption = Annotated[Path, typer.Option("--root", help="Directory that holds your data sets.")]


def dataset_path(dataset: str, root: Path) -> Path:
    """The directory of a data set: the path as it is, or the name under ``root`` where only that is one.

    A folder of raw files may be called as the data set that was made of them.
    """
    from corral.data.dataset_header import HEADER_FILE

    path, named = Path(dataset), root / dataset
    if not path.exists():
        return named if named.exists() else path
    return path if (path / HEADER_FILE).is_file() or not (named / HEADER_FILE).is_file() else named
