"""Writing a Dataset directory: number, filter, sort, write to a temporary sibling, then rename."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl

from corral.data.atomic_directory import DirectoryFiles, atomic_directory
from corral.data.dataset_header import (
    FORMAT_VERSION,
    HEADER_FILE,
    UNWEIGHTED_VERSION,
    Counts,
    DatasetHeader,
    FeatureEntry,
    files_of_dataset,
)
from corral.data.event_sort import SortedEvents, sort_events
from corral.data.feature_fit import FeatureTables
from corral.data.features import FeatureKind, FeatureTable
from corral.data.interactions import Interactions
from corral.data.rare_filter import Filters, frequent_rows
from corral.data.skipped_rows import SkippedRows
from corral.data.vocabulary import FIRST_ROW, UNKNOWN, Vocabulary

Progress = Callable[[str, float], None]
"""Called with the name of the step and the fraction done, 0 to 1."""


def write_directory(
    path: Path,
    interactions: Interactions,
    *,
    name: str,
    filters: Filters,
    overwrite: bool,
    progress: Progress | None,
    filtered: Counts | None = None,
) -> DatasetHeader:
    """Writes ``interactions`` as a Dataset directory; see ``Dataset.write``.

    Args:
        path: as there.
        interactions: as there.
        name: as there.
        filters: as there.
        overwrite: as there.
        progress: as there.
        filtered: of the Dataset that the events are taken from, where its filters are not to be applied again: the
            header says which they were, and what they left out then.
    """
    report = progress or silent
    with atomic_directory(path, overwrite=overwrite, marker=HEADER_FILE, ours=files_of_dataset) as files:
        report("numbering ids", 0.0)
        numbered = _number(interactions, Filters() if filtered else filters)
        report("writing ids", 0.3)
        files.arrow("users.arrow", "id", numbered.users.ids)
        files.arrow("items.arrow", "id", numbered.items.ids)
        report("sorting events", 0.35)
        events = _sort(interactions.events, numbered.events, len(numbered.users))
        tied = int(np.count_nonzero(events.ties))
        report("writing events", 0.6)
        _write_log(files, "events", events)
        n_events = len(events.item)
        del events
        n_shown = n_impressions = 0
        if interactions.impressions is not None:
            report("sorting impressions", 0.75)
            assert numbered.impressions is not None
            shown = _sort(interactions.impressions, numbered.impressions, len(numbered.users))
            n_shown, n_impressions = len(interactions.impressions), len(shown.item)
            _write_log(files, "impressions", shown)
            del shown
        report("writing features", 0.85)
        counts = LogCounts(
            events=n_events,
            impressions=n_impressions,
            tied_events=tied,
            filtered_events=filtered.filtered_events if filtered else len(interactions.events) - n_events,
            filtered_impressions=filtered.filtered_impressions if filtered else n_shown - n_impressions,
        )
        header = write_header(
            files,
            name,
            interactions,
            numbered.users,
            numbered.items,
            counts,
            filters,
            interactions.skipped,
            report,
            interactions.event_weights,
        )
    report("done", 1.0)
    return header


@dataclass(frozen=True)
class LogCounts:
    """Of the header's ``Counts`` those of events and impressions."""

    events: int
    impressions: int
    tied_events: int
    filtered_events: int
    filtered_impressions: int


class Source(FeatureTables, Protocol):
    """What is known of events besides themselves; see ``Interactions``."""

    @property
    def text_columns(self) -> frozenset[str]: ...
    @property
    def time_unit(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def licence(self) -> str: ...


def write_header(
    files: DirectoryFiles,
    name: str,
    source: Source,
    users: Vocabulary,
    items: Vocabulary,
    counts: LogCounts,
    filters: Filters,
    skipped: SkippedRows,
    report: Progress,
    event_weights: Mapping[str, float] | None = None,
) -> DatasetHeader:
    """Writes the feature tables and, with every other file there, the header: the end of every Dataset directory."""
    entries, unused = {}, {}
    for block, key, frame, vocabulary, unfit in (
        ("user_features", "user_id", source.user_features, users, source.unfit_features[0]),
        ("item_features", "item_id", source.item_features, items, source.unfit_features[1]),
    ):
        table = FeatureTable.build(frame, key, vocabulary, source.text_columns)
        entries[block] = _write_features(files, block, table)
        unused[block] = 0 if frame is None else int((vocabulary.rows(frame[key]) == UNKNOWN).sum()) + unfit
    header = DatasetHeader(
        format_version=UNWEIGHTED_VERSION if event_weights is None else FORMAT_VERSION,
        name=name,
        source=source.source,
        source_hash=_content_hash(files, entries, source.time_unit),
        licence=source.licence,
        time_unit=source.time_unit,
        **asdict(filters),
        counts=Counts(
            users=len(users) - FIRST_ROW,
            items=len(items) - FIRST_ROW,
            **asdict(counts),
            skipped_rows=skipped.count,
            unused_user_features=unused["user_features"],
            unused_item_features=unused["item_features"],
        ),
        skipped_examples=tuple(str(skipped).splitlines()[1:]),
        user_features=entries["user_features"],
        item_features=entries["item_features"],
        files=files.entries,
        event_weights=None if event_weights is None else dict(event_weights),
    )
    report("flushing to disk", 0.9)
    files.text(HEADER_FILE, header.dumps())
    return header


def silent(step: str, fraction: float) -> None:
    """Progress nobody watches."""


@dataclass
class _Rows:
    """User and item rows of one table, and which of its rows are kept (None: all)."""

    user: np.ndarray
    item: np.ndarray
    keep: np.ndarray | None = None


@dataclass
class _Numbered:
    users: Vocabulary
    items: Vocabulary
    events: _Rows
    impressions: _Rows | None


def _number(interactions: Interactions, filters: Filters) -> _Numbered:
    """Numbers the ids of events and impressions together, and filters rare users and items."""
    n = len(interactions.events)
    vocabularies, rows = [], []
    for key in ("user_id", "item_id"):
        ids = interactions.events[key]
        if interactions.impressions is not None:
            ids = pl.concat([ids, interactions.impressions[key]])
        vocabulary, numbers = Vocabulary.number(ids)
        vocabularies.append(vocabulary)
        rows.append(numbers)
    users, items = vocabularies
    events = _Rows(rows[0][:n], rows[1][:n])
    impressions = None if interactions.impressions is None else _Rows(rows[0][n:], rows[1][n:])
    if not filters:
        return _Numbered(users, items, events, impressions)
    shown = impressions
    good_users, good_items = frequent_rows(
        lambda: [(events.user, events.item)],
        None if shown is None else lambda: [(shown.user, shown.item)],
        len(users),
        len(items),
        filters,
        interactions.source,
    )
    new_user, new_item = (np.cumsum(good, dtype=np.int32) - 1 for good in (good_users, good_items))

    def kept(rows: _Rows) -> _Rows:
        keep = good_users[rows.user] & good_items[rows.item]
        return _Rows(new_user[rows.user[keep]], new_item[rows.item[keep]], keep)

    return _Numbered(
        users.only(good_users),
        items.only(good_items),
        kept(events),
        None if impressions is None else kept(impressions),
    )


def _sort(frame: pl.DataFrame, rows: _Rows, user_rows: int) -> SortedEvents:
    def column(name: str) -> np.ndarray | None:
        if name not in frame.columns:
            return None
        values = frame[name].to_numpy()
        return values if rows.keep is None else values[rows.keep]

    time = column("timestamp")
    assert time is not None
    return sort_events(rows.user, rows.item, time, column("value"), column("part"), user_rows, column("weight"))


def _write_log(files: DirectoryFiles, block: str, log: SortedEvents) -> None:
    for name, values in log.columns().items():
        files.array(f"{block}/{name}.npy", values)


def _write_features(files: DirectoryFiles, block: str, table: FeatureTable) -> tuple[FeatureEntry, ...]:
    entries = []
    for index, column in enumerate(table.columns.values()):
        stem = f"{block}/{index:03d}"
        entries.append(FeatureEntry(name=column.name, kind=column.kind, stem=stem))
        if column.kind is FeatureKind.TEXT:
            files.arrow(f"{stem}.texts.arrow", "text", column.texts)
        else:
            files.array(f"{stem}.values.npy", column.values)
        if column.offsets is not None:
            files.array(f"{stem}.offsets.npy", column.offsets)
        if column.vocabulary is not None:
            files.arrow(f"{stem}.vocabulary.arrow", "id", column.vocabulary.ids)
    return tuple(entries)


def _content_hash(files: DirectoryFiles, features: dict[str, tuple[FeatureEntry, ...]], time_unit: str) -> str:
    digest = hashlib.sha256(time_unit.encode())
    for name in sorted(files.contents):
        digest.update(f"\n{name} {files.contents[name]}".encode())
    for block in sorted(features):
        for entry in features[block]:
            digest.update(f"\n{entry.stem} {entry.kind} {entry.name}".encode())
    return digest.hexdigest()
