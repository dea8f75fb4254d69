"""The Dataset a recipe asks for: by path, or by name from its maker's files, numbered once and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from corral import __version__
from corral.data import embedded
from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.data.readers import amazon, lastfm, lib_sibgmu, movielens
from corral.settings import DataSettings

# Data sets that a recipe may call by name, beside the embedded one: folders of CORRAL_DATA in their makers' formats.
NAMED_DATA: dict[str, Callable[[Path], Interactions]] = {
    "ml-100k": movielens.read,
    "ml-1m": movielens.read,
    "ml-latest-small-2016": movielens.read,
    "amazon-beauty": amazon.read,
    "amazon-sports": amazon.read,
    "lastfm-2k": lastfm.read,
    "lib-sibgmu": lib_sibgmu.read,
}
# One more whenever a reader above, or the check behind it, gives other events for the same files: what an older
# reader left in the cache is then not used again.
READERS_VERSION = 1


def cache_directory() -> Path:
    """Where Datasets made from named data are kept: CORRAL_CACHE, else the user's cache directory."""
    if "CORRAL_CACHE" in os.environ:
        return Path(os.environ["CORRAL_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "corral"


def _source(name: str) -> Path:
    """The folder with the maker's files."""
    if name == embedded.NAME:
        return Path(str(files("corral.data.embedded")))
    root = os.environ.get("CORRAL_DATA")
    if name not in NAMED_DATA:
        raise ValueError(f"data.name={name!r}: known are {', '.join((embedded.NAME, *NAMED_DATA))}")
    if root is None:
        raise ValueError(
            f"data.name={name!r} is read from a folder of that name under CORRAL_DATA, which is not set; "
            f"fetch the data (corral data get) and set CORRAL_DATA, or train on data.path=DATASET"
        )
    folder = Path(root) / name
    if not folder.is_dir():
        raise ValueError(f"data.name={name!r}: {folder} does not exist")
    return folder


def _fingerprint(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of change of all files below a folder: enough to see that the source changed."""
    return sorted(
        (file.relative_to(folder).as_posix(), file.stat().st_size, file.stat().st_mtime_ns)
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts  # beside the embedded data; written at any time
    )


def cache_path(data: DataSettings, folder: Path) -> Path:
    """Where the Dataset made from ``folder`` is kept: another place for other files, filters or readers."""
    filters = (data.min_user_events, data.min_item_events, data.iterate)
    made_by = (__version__, READERS_VERSION)
    key = hashlib.sha256(json.dumps([filters, made_by, _fingerprint(folder)]).encode()).hexdigest()[:12]
    return cache_directory() / "datasets" / f"{data.name}-{key}"


def open_data(data: DataSettings) -> Dataset:
    """The Dataset a recipe asks for; named data is read from its maker's files once and kept in the cache.

    Raises:
        ValueError: neither or both of name and path, an unknown name, or CORRAL_DATA does not have it.
    """
    if (data.name is None) == (data.path is None):
        raise ValueError("data: give either name or path")
    if data.path is not None:
        if (data.min_user_events, data.min_item_events, data.iterate) != (1, 1, False):
            raise ValueError("data: filters are applied when a Dataset is made (corral data add), not when it is used")
        return Dataset.open(data.path)
    assert data.name is not None
    folder = _source(data.name)
    path = cache_path(data, folder)
    if path.exists():
        try:
            return Dataset.open(path)
        except ValueError:
            pass  # damaged, or of another format: made again from the source
    interactions = embedded.online_retail() if data.name == embedded.NAME else NAMED_DATA[data.name](folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    return Dataset.write(
        path,
        interactions,
        name=data.name,
        min_user_events=data.min_user_events,
        min_item_events=data.min_item_events,
        iterate=data.iterate,
        overwrite=True,  # another process may have made it meanwhile
    )
