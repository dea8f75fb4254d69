"""Dataset: a directory of memory-mapped columns, sorted by (user, time), with a JSON header and checksums."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from corral.data.arrow_file import open_arrow_column
from corral.data.dataset_header import DatasetHeader, FeatureEntry
from corral.data.dataset_write import Progress, write_directory
from corral.data.features import FeatureColumn, FeatureKind, FeatureTable
from corral.data.html_table import html_table
from corral.data.interactions import Interactions
from corral.data.rare_filter import Filters
from corral.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class EventLog:
    """Events sorted by (user, time, source row); columns are read-only, memory-mapped arrays.

    Attributes:
        user: user rows [n], int32.
        item: item rows [n], int32.
        time: [n], int64, >= 0, in ``DatasetHeader.time_unit``.
        ties: [n], int32: how many events of the same user directly before this one have the same time.
        offsets: [U + 1], int64: events ``offsets[u]:offsets[u + 1]`` are those of user row u.
        value: [n], float32: rating, quantity, ...; or None.
        part: [n], int8: given split, 0 train, 1 valid, 2 test; or None.
        weight: [n], float32, >= 0: what the event counts in training losses; or None.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    ties: np.ndarray
    offsets: np.ndarray
    value: np.ndarray | None = None
    part: np.ndarray | None = None
    weight: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.item)


@dataclass(frozen=True)
class Dataset:
    """Events, vocabularies and features: the last place where external ids live before serving.

    Attributes:
        path: the directory.
        header: contents of header.json.
        users: user ids <-> rows.
        items: item ids <-> rows.
        events: clicks, purchases, ratings.
        impressions: shown and not clicked; None where the source has none.
        user_features: by user row.
        item_features: by item row.
    """

    path: Path
    header: DatasetHeader
    users: Vocabulary
    items: Vocabulary
    events: EventLog
    impressions: EventLog | None
    user_features: FeatureTable
    item_features: FeatureTable

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.header.name

    @property
    def hash(self) -> str:
        """The first 16 hex digits of the content hash: printed beside every result."""
        return self.header.source_hash[:16]

    @property
    def n_users(self) -> int:
        """User rows, the two reserved ones included."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """Item rows, the two reserved ones included."""
        return len(self.items)

    @classmethod
    def write(
        cls,
        path: str | Path,
        interactions: Interactions,
        *,
        name: str | None = None,
        min_user_events: int = 1,
        min_item_events: int = 1,
        iterate: bool = False,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Dataset:
        """Numbers, sorts and writes ``interactions`` as a directory, whole or not at all, and opens it.

        Args:
            path: the directory to make.
            interactions: checked events.
            name: of the data set; by default the directory's name.
            min_user_events: users with fewer events (after the items' filter) are left out.
            min_item_events: items with fewer events are left out. With 1, items that were only ever shown
                (impressions) are kept.
            iterate: repeat both filters until nothing changes (k-core); otherwise items, then users, once.
            overwrite: replace an existing Dataset directory (in one step; the old one is there until then).
            progress: called with a step's name and the fraction done, 0 to 1.

        Raises:
            FileExistsError: ``path`` exists and ``overwrite`` is False, or it is no Dataset directory.
            ValueError: the filters leave no events.
        """
        path = Path(path)
        write_directory(
            path,
            interactions,
            name=name or path.name,
            filters=Filters(min_user_events, min_item_events, iterate),
            overwrite=overwrite,
            progress=progress,
        )
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> Dataset:
        """Opens a Dataset directory without reading its columns: milliseconds, whatever its size.

        Checks the header, the format version, and that every file is there with its size; ``verify`` checks
        contents.

        Raises:
            FileNotFoundError: there is no Dataset directory.
            ValueError: a file is missing, truncated or not what the header says, or the format is newer.
        """
        path = Path(path)
        header = DatasetHeader.read(path)
        for file, entry in header.files.items():
            try:
                size = (path / file).stat().st_size
            except FileNotFoundError as error:
                raise ValueError(f"{path / file}: missing: build the data set again") from error
            if size != entry.bytes:
                what = "truncated" if size < entry.bytes else "damaged"
                raise ValueError(
                    f"{path / file}: {what}: {size} bytes where the header says {entry.bytes}: build the data set again"
                )
        users = Vocabulary.open(path / "users.arrow")
        items = Vocabulary.open(path / "items.arrow")
        return cls(
            path,
            header,
            users,
            items,
            _open_log(path, header, "events"),
            _open_log(path, header, "impressions") if "impressions/item.npy" in header.files else None,
            _open_features(path, header, header.user_features, len(users)),
            _open_features(path, header, header.item_features, len(items)),
        )

    def __repr__(self) -> str:
        counts = self.header.counts
        return f"Dataset({self.name!r}, {counts.events:,} events, {counts.users:,} users, {counts.items:,} items)"

    def _repr_html_(self) -> str:
        counts = self.header.counts
        tables = {"users": self.user_features, "items": self.item_features}
        notes = [f"features of {name}: {', '.join(table.columns)}" for name, table in tables.items() if table.columns]
        shown = {"events": counts.events, "impressions": counts.impressions, "users": counts.users}
        columns = {name: [count] for name, count in {**shown, "items": counts.items}.items()}
        return html_table(f"{self.name} ({self.hash})", columns, notes=[*notes, *filter(None, [self.header.licence])])

    def verify(self, progress: Callable[[str, float], None] | None = None) -> None:
        """Reads every file and compares its checksum.

        Raises:
            ValueError: naming the first damaged file.
        """
        total = max(sum(entry.bytes for entry in self.header.files.values()), 1)
        done = 0
        for file, entry in self.header.files.items():
            digest = hashlib.sha256()
            with open(self.path / file, "rb") as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    digest.update(chunk)
            if digest.hexdigest() != entry.sha256:
                raise ValueError(f"{self.path / file}: damaged: its checksum is not the header's: build it again")
            done += entry.bytes
            if progress is not None:
                progress(file, done / total)


def as_tensor(column: np.ndarray) -> Tensor:
    """A memory-mapped column as a tensor that shares its memory; it must not be written to."""
    import torch  # Seconds of import that building and describing a data set need not pay.

    with warnings.catch_warnings():
        # The mapping is read-only on purpose; torch has no read-only tensors and warns.
        warnings.filterwarnings("ignore", message=".*not writable.*", category=UserWarning)
        return torch.from_numpy(column)


def _open_array(directory: Path, header: DatasetHeader, file: str) -> np.ndarray:
    path = directory / file
    entry = header.files.get(file)
    if entry is None:
        raise ValueError(f"{path}: not listed in the header: build the data set again")
    try:
        # An empty array cannot be mapped.
        array = np.load(path, mmap_mode="r" if 0 not in entry.shape else None, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: damaged ({error}): build the data set again") from error
    if str(array.dtype) != entry.dtype or array.shape != entry.shape:
        raise ValueError(
            f"{path}: {array.dtype} {array.shape} where the header says {entry.dtype} {entry.shape}: "
            "build the data set again"
        )
    # A plain view: indexing a np.memmap costs several times as much per call.
    view = np.asarray(array)
    view.flags.writeable = False
    return view


def _open_log(path: Path, header: DatasetHeader, block: str) -> EventLog:
    def column(name: str) -> np.ndarray:
        return _open_array(path, header, f"{block}/{name}.npy")

    def optional(name: str) -> np.ndarray | None:
        return column(name) if f"{block}/{name}.npy" in header.files else None

    return EventLog(
        column("user"),
        column("item"),
        column("time"),
        column("ties"),
        column("offsets"),
        optional("value"),
        optional("part"),
        optional("weight"),
    )


def _open_features(path: Path, header: DatasetHeader, entries: tuple[FeatureEntry, ...], rows: int) -> FeatureTable:
    columns = {}
    for entry in entries:
        offsets = vocabulary = texts = None
        values = np.empty(0, dtype=np.int32)
        if entry.kind is FeatureKind.TEXT:
            texts = open_arrow_column(path / f"{entry.stem}.texts.arrow", "text")
        else:
            values = _open_array(path, header, f"{entry.stem}.values.npy")
        if entry.kind is FeatureKind.MULTI:
            offsets = _open_array(path, header, f"{entry.stem}.offsets.npy")
        if entry.kind in (FeatureKind.MULTI, FeatureKind.CATEGORICAL):
            vocabulary = Vocabulary.open(path / f"{entry.stem}.vocabulary.arrow")
        columns[entry.name] = FeatureColumn(entry.name, entry.kind, values, offsets, vocabulary, texts)
    return FeatureTable(rows, columns)
