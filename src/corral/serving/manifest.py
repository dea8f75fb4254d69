"""Manifest: what a bundle's manifest.json says of the files beside it, and the check that it is true."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from corral import __version__

FORMAT = "corral bundle"
FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """Facts of a bundle.

    Attributes:
        corral: the version of corral that wrote it.
        versions: of Python, torch and numpy, likewise.
        data: name and hash of the data set it was trained on.
        files: sha256 (hex) and bytes of every file, by path inside the bundle.
    """

    corral: str
    versions: Mapping[str, str]
    data: Mapping[str, str]
    files: Mapping[str, Mapping[str, Any]]

    @property
    def version(self) -> str:
        """Twelve hexadecimal digits that change with any file of the bundle."""
        return hashlib.sha256(json.dumps(dict(self.files), sort_keys=True).encode()).hexdigest()[:12]


def write_manifest(directory: Path, data: Mapping[str, str]) -> None:
    """Checksum and fsync every file of a bundle's directory, and write the manifest, last."""
    files = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
            files[path.relative_to(directory).as_posix()] = {
                "bytes": os.fstat(stream.fileno()).st_size,
                "sha256": digest,
            }
    contents = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "corral": __version__,
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
        "data": dict(data),
        "files": files,
    }
    with (directory / MANIFEST_FILE).open("wb") as stream:
        stream.write(_serialised(contents))
        stream.flush()
        os.fsync(stream.fileno())


def _serialised(contents: Mapping[str, Any]) -> bytes:
    """The manifest's bytes: its own checksum comes last, over all that stands before."""
    body = {key: value for key, value in contents.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=1).encode() + b"\n"


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a bundle, itself checked; the other files are not touched.

    Raises:
        FileNotFoundError: there is no bundle.
        ValueError: the manifest is damaged, or of a newer format.
    """
    path = directory / MANIFEST_FILE
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{directory} is not a bundle: {path.name} is missing") from error
    damaged = f"{path} is damaged; copy or export the bundle again"
    try:
        contents = json.loads(text)
    except ValueError as error:
        raise ValueError(damaged) from error
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise ValueError(f"{path} is not the manifest of a {FORMAT}, or damaged")
    # before the checksum: a newer format may compute it in another way
    version = contents.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        writer = contents.get("corral")
        raise ValueError(
            f"{directory}: bundle format {version}, written by corral {writer}; this is corral "
            f"{__version__}, which reads formats up to {FORMAT_VERSION}: install corral {writer} or newer"
        )
    if version != FORMAT_VERSION or text != _serialised(contents):
        raise ValueError(damaged)
    return Manifest(contents["corral"], contents["versions"], contents["data"], contents["files"])


def verify_files(directory: Path, manifest: Manifest) -> None:
    """Check every file of a bundle against its manifest.

    Raises:
        ValueError: a file is missing, or of another size or checksum; the message names it.
    """
    for name, facts in manifest.files.items():
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts:
            raise ValueError(f"{directory / MANIFEST_FILE} names a file outside of the bundle: {name}")
        path = directory / name
        try:
            with path.open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                if size != facts["bytes"]:
                    raise ValueError(
                        f"{path} is damaged: {size} bytes, and {facts['bytes']} when it was written; "
                        "copy or export the bundle again"
                    )
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except FileNotFoundError as error:
            raise ValueError(f"{path} is missing; copy or export the bundle again") from error
        if digest != facts["sha256"]:
            raise ValueError(
                f"{path} is damaged: its checksum is not the one of when it was written; "
                "copy or export the bundle again"
            )
