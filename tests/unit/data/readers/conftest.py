"""Real files, where the environment variable CORRAL_DATA says they are."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def real() -> Callable[[str], Path]:
    """The directory of a real data set; the test is skipped where there is none."""

    def folder(name: str) -> Path:
        root = os.environ.get("CORRAL_DATA")
        if not root:
            pytest.skip("set CORRAL_DATA to the directory with the makers' files to test against them")
        path = Path(root) / name
        if not path.is_dir():
            pytest.skip(f"CORRAL_DATA has no {name}")
        return path

    return folder


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file by name (gzipped where the name ends in .gz) and returns the directory."""

    def file(name: str, text: str, encoding: str = "utf-8") -> Path:
        body = text.encode(encoding)
        (tmp_path / name).write_bytes(gzip.compress(body) if name.endswith(".gz") else body)
        return tmp_path

    return file
