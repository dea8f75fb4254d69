"""DatasetHeader: what header.json of a Dataset directory says; the format version is decided here."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from corral.data.features import FeatureKind
from corral.data.json_file import read_json

FORMAT = "corral dataset"
# Events without weights are written as before there were any, so that an older corral reads them too.
FORMAT_VERSION, UNWEIGHTED_VERSION = 2, 1
HEADER_FILE = "header.json"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Strict):
    """One file of the directory.

    Attributes:
        bytes: its size.
        sha256: of the whole file.
        dtype: numpy's name of the type, or "arrow".
        shape: of the array; ids or strings in an Arrow file.
    """

    bytes: int
    sha256: str
    dtype: str
    shape: tuple[int, ...]


class FeatureEntry(_Strict):
    """One feature column: its name, kind, and the stem of its files (names may hold any character)."""

    name: str
    kind: FeatureKind
    stem: str


class Counts(_Strict):
    """How much there is.

    Attributes:
        users: real user rows (without padding and unknown).
        items: real item rows.
        events: events kept.
        impressions: impressions kept.
        tied_events: events with the same user and time as the event before.
        filtered_events: events dropped by min_user_events and min_item_events.
        filtered_impressions: impressions dropped with their users and items.
        skipped_rows: bad rows dropped while reading.
        unused_user_features: feature rows that are of no user here.
        unused_item_features: feature rows that are of no item here.
    """

    users: int
    items: int
    events: int
    impressions: int
    tied_events: int
    filtered_events: int
    filtered_impressions: int
    skipped_rows: int
    unused_user_features: int
    unused_item_features: int


class DatasetHeader(_Strict):
    """Contents of header.json.

    Attributes:
        format: always ``FORMAT``.
        format_version: see ``FORMAT_VERSION``.
        name: of the data set.
        source: where the events came from.
        source_hash: sha256 of the contents (the checksums of all files, by name): equal for equal data,
            whatever the name, the machine or the day.
        licence: under which terms.
        time_unit: of the times; "order" where the source had none.
        min_user_events: filter that was applied.
        min_item_events: filter that was applied.
        iterate: whether the filter was repeated until nothing changed (k-core).
        counts: how much there is.
        skipped_examples: the first bad rows that were dropped while reading.
        user_features: feature columns of users.
        item_features: feature columns of items.
        files: every other file of the directory.
        event_weights: the weight of each event type; {}: weights came as a column; None: events have no weights.
    """

    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    name: str
    source: str
    source_hash: str
    licence: str
    time_unit: str
    min_user_events: int
    min_item_events: int
    iterate: bool
    counts: Counts
    skipped_examples: tuple[str, ...]
    user_features: tuple[FeatureEntry, ...]
    item_features: tuple[FeatureEntry, ...]
    files: dict[str, FileEntry]
    event_weights: dict[str, float] | None = None

    def dumps(self) -> str:
        """As JSON text."""
        unknown_then = {"event_weights"} if self.event_weights is None else None
        return json.dumps(self.model_dump(mode="json", exclude=unknown_then), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, directory: Path) -> DatasetHeader:
        """The header of a Dataset directory.

        Raises:
            FileNotFoundError: no directory, or no header in it.
            ValueError: the header is damaged, of another format, or of a newer version.
        """
        path = directory / HEADER_FILE
        if not path.is_file():
            what = "no header.json in it: not a Dataset directory" if directory.is_dir() else "no such directory"
            raise FileNotFoundError(f"{directory}: {what}")
        advice = "build the data set again"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: damaged or truncated header ({error}): {advice}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"{path}: not the header of a Dataset: {advice}")
        version = content.get("format_version")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise ValueError(
                f"{path}: format version {version!r}, but this corral reads up to version {FORMAT_VERSION}: "
                f"install a newer corral, or {advice}"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{path}: damaged header: {where}: {first['msg']}: {advice}") from error


def files_of_dataset(directory: Path) -> frozenset[str]:
    """The names of the files that a Dataset directory is made of; what else lies there is not the Dataset's."""
    try:
        files = read_json(directory / HEADER_FILE).get("files", ())
    except ValueError:  # a damaged one is made again: what is of its kinds of files was its own
        files = (
            path.relative_to(directory).as_posix() for kind in ("npy", "arrow") for path in directory.rglob(f"*.{kind}")
        )
    return frozenset((HEADER_FILE, *files))
