"""read_json: a small JSON file of ours, or an error that names it and says what to do"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TRAIN_AGAIN = "delete it and give the corral train command again"


def read_json(path: Path, advice: str = TRAIN_AGAIN) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: the file.
        advice: what to do where it is damaged.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged: no JSON, not UTF-8, or no object.
    """
    return read_json_line(path.read_bytes(), str(path), advice)


def read_json_line(text: bytes, where: str, advice: str = TRAIN_AGAIN) -> dict[str, Any]:
    """The object in one line, or in a whole file; ``where``: what an error calls it."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: damaged ({error}); {advice}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{where}: damaged (holds no JSON object); {advice}")
    return found
