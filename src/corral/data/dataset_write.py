"""Writing a Dataset directory: number, filter, sort, write to a temporary sibling, then rename."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
)
from corral.data.event_sort import SortedEvents, sort_events
from corral.data.features import FeatureKind, FeatureTable
from corral.data.interactions import Interactions
from corral.data.vocabulary import FIRST_ROW, UNKNOWN, Vocabulary

Progress = Callable[[str, float], None]
"""Called with the name of the step and the fraction done, 0 to 1."""


def write_directory(
    path: Path,
    interactions: Interactions,
    *,
    name: str,
    min_user_events: int,
    min_item_events: int,
    iterate: bool,
    overwrite: bool,
    progress: Progress | None,
) -> DatasetHeader:
    """Writes ``interactions`` as a Dataset directory; see ``Dataset.write``."""
    report = progress or _silent
    with atomic_directory(path, overwrite=overwrite, marker=HEADER_FILE) as files:
        report("numbering ids", 0.0)
        numbered = _number(interactions, min_user_events, min_item_events, iterate)
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
        n_impressions = 0
        if interactions.impressions is not None:
            report("sorting impressions", 0.75)
            assert numbered.impressions is not None
            shown = _sort(interactions.impressions, numbered.impressions, len(numbered.users))
            n_impressions = len(shown.item)
            _write_log(files, "impressions", shown)
            del shown
        report("writing features", 0.85)
        entries, unused = {}, {}
        for block, key, frame, vocabulary in (
            ("user_features", "user_id", interactions.user_features, numbered.users),
            ("item_features", "item_id", interactions.item_features, numbered.items),
        ):
            table = FeatureTable.build(frame, key, vocabulary, interactions.text_columns)
            entries[block] = _write_features(files, block, table)
            unused[block] = 0 if frame is None else int((vocabulary.rows(frame[key]) == UNKNOWN).sum())
        counts = Counts(
            users=len(numbered.users) - FIRST_ROW,
            items=len(numbered.items) - FIRST_ROW,
            events=n_events,
            impressions=n_impressions,
            tied_events=tied,
            filtered_events=len(interactions.events) - n_events,
            filtered_impressions=0
            if interactions.impressions is None
            else len(interactions.impressions) - n_impressions,
            skipped_rows=interactions.skipped.count,
            unused_user_features=unused["user_features"],
            unused_item_features=unused["item_features"],
        )
        weights = interactions.event_weights
        header = DatasetHeader(
            format_version=FORMAT_VERSION if weights is not None else UNWEIGHTED_VERSION,
            name=name,
            source=interactions.source,
            source_hash=_content_hash(files, entries, interactions.time_unit),
            licence=interactions.licence,
            time_unit=interactions.time_unit,
            min_user_events=min_user_events,
            min_item_events=min_item_events,
            iterate=iterate,
            counts=counts,
            skipped_examples=tuple(str(interactions.skipped).splitlines()[1:]),
            user_features=entries["user_features"],
            item_features=entries["item_features"],
            files=files.entries,
            event_weights=None if weights is None else dict(weights),
        )
        report("flushing to disk", 0.9)
        files.text(HEADER_FILE, header.dumps())
    report("done", 1.0)
    return header


def _silent(step: str, fraction: float) -> None:
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


def _number(interactions: Interactions, min_user: int, min_item: int, iterate: bool) -> _Numbered:
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
    if min_user <= 1 and min_item <= 1:
        return _Numbered(users, items, events, impressions)

    keep = np.ones(n, dtype=bool)
    good_items = np.ones(len(items), dtype=bool)
    good_users = np.ones(len(users), dtype=bool)
    while True:
        before = int(keep.sum())
        # Counted on what is left; the thresholds of 1 keep those known from impressions only.
        good_items &= np.bincount(events.item[keep], minlength=len(items)) >= (min_item if min_item > 1 else 0)
        keep &= good_items[events.item]
        good_users &= np.bincount(events.user[keep], minlength=len(users)) >= (min_user if min_user > 1 else 0)
        keep &= good_users[events.user]
        left = int(keep.sum())
        if not left:
            raise ValueError(
                f"{interactions.source or 'events'}: min_user_events={min_user}, min_item_events={min_item}"
                f"{' (iterated)' if iterate else ''} leave none of {n} events: lower them"
            )
        if not iterate or left == before:
            break
    shown_keep = None
    if impressions is not None:
        shown_keep = good_users[impressions.user] & good_items[impressions.item]
    # Users and items that the other filter left without any event or impression have no row.
    for good, side in ((good_users, "user"), (good_items, "item")):
        used = np.zeros(len(good), dtype=bool)
        used[getattr(events, side)[keep]] = True
        if impressions is not None:
            used[getattr(impressions, side)[shown_keep]] = True
        good &= used
        good[:FIRST_ROW] = True
    new_user, new_item = (np.cumsum(good, dtype=np.int32) - 1 for good in (good_users, good_items))
    events = _Rows(new_user[events.user[keep]], new_item[events.item[keep]], keep)
    if impressions is not None:
        impressions = _Rows(new_user[impressions.user[shown_keep]], new_item[impressions.item[shown_keep]], shown_keep)
    kept = [
        Vocabulary(vocabulary.ids.take(np.flatnonzero(good[FIRST_ROW:])))
        for vocabulary, good in ((users, good_users), (items, good_items))
    ]
    return _Numbered(kept[0], kept[1], events, impressions)


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
