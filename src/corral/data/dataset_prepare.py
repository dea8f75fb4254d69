"""prepare_dataset: a Dataset of many Parquet files with bounded memory; the same bytes as one made in memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from corral.data.atomic_directory import DirectoryFiles, atomic_directory
from corral.data.dataset import Dataset
from corral.data.dataset_header import HEADER_FILE, files_of_dataset
from corral.data.dataset_write import LogCounts, Progress, silent, write_header
from corral.data.event_spill import EventSpill, user_ranges
from corral.data.feature_fit import unrelated
from corral.data.id_counts import merged
from corral.data.parquet_interactions import ParquetInteractions
from corral.data.prepare_tasks import IDS, Range, Run, count_ids, deal, runs_of, sort_range
from corral.data.rare_filter import Filters, frequent_rows
from corral.data.skipped_rows import SkippedRows
from corral.data.vocabulary import FIRST_ROW, UNKNOWN, Vocabulary

EVENTS_IN_MEMORY = 1 << 22
_LOGS = ("events", "impressions")

Each = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""Calls a function for every task and gives the results in the tasks' order; ``map`` is one. A task may be called
again after an attempt that died: it writes the same files anew."""


def prepare_dataset(
    path: str | Path,
    interactions: ParquetInteractions,
    *,
    name: str | None = None,
    min_user_events: int = 1,
    min_item_events: int = 1,
    iterate: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    events_in_memory: int = EVENTS_IN_MEMORY,
    writers: int = 1,
    each: Each = map,
) -> Dataset:
    """Numbers, sorts and writes events that need not fit into memory, whole or not at all, and opens the Dataset.

    The files are read twice: once for their ids, once to deal the numbered events to ranges of users, on the disk;
    then each range is sorted. In memory are at most: one batch of rows (``BATCH_ROWS``), the distinct ids with two
    counts each, a few times over; the feature tables; and the events of one range, about 150 bytes each. On the disk,
    beside the Dataset, up to 46 bytes an event while it is made.

    Args:
        path: the directory to make.
        interactions: where the events are.
        name: as in ``Dataset.write``.
        min_user_events: as in ``Dataset.write``.
        min_item_events: as in ``Dataset.write``.
        iterate: as in ``Dataset.write``.
        overwrite: as in ``Dataset.write``.
        progress: as in ``Dataset.write``.
        events_in_memory: events of a range of users; a user who has more is a range of one.
        writers: into how many tasks the reading is split; it changes nothing in the Dataset.
        each: how tasks are run. Other processes or machines must see the same files at the same paths.

    Raises:
        FileExistsError: ``path`` exists and ``overwrite`` is False, or it is no Dataset directory.
        ValueError: naming file, row, column, value and what to do; no row of a feature table is of a user (item) of the
            events; or the filters leave no events.
    """
    path, report = Path(path), progress or silent
    filters = Filters(min_user_events, min_item_events, iterate)
    with atomic_directory(path, overwrite=overwrite, marker=HEADER_FILE, ours=files_of_dataset) as files:
        folder = files.directory / "spill"
        folder.mkdir()
        # Reading needs no features: they are not sent along.
        bare = replace(interactions, user_features=None, item_features=None)
        runs = [Run(bare, folder, place, files_of) for place, files_of in enumerate(runs_of(bare, writers))]
        seen: list[SkippedRows] = []
        for done, skipped in enumerate(each(count_ids, runs)):
            report("reading ids", 0.25 * done / len(runs))
            seen.append(skipped)
        skipped = sum(seen, SkippedRows()) + interactions.skipped
        users, *of_users = _numbered(runs, "user_id", interactions, skipped)
        items, *of_items = _numbered(runs, "item_id", interactions, skipped)
        _refuse_unrelated(interactions, users, items)
        read = [int(counts.sum()) for counts in of_items]
        del of_items
        spills = {
            log: EventSpill(folder, log, user_ranges(counts, events_in_memory), len(runs), _columns(interactions, log))
            for log, counts, rows in zip(_LOGS, of_users, read, strict=True)
            if rows
        }
        for done, _ in enumerate(each(partial(deal, spills=tuple(spills.values())), runs)):
            report("numbering events", 0.25 + 0.3 * done / len(runs))

        if filters:
            report("filtering", 0.55)
            shown = spills.get("impressions")
            good = frequent_rows(
                spills["events"].pairs,
                None if shown is None else shown.pairs,
                len(users),
                len(items),
                filters,
                interactions.source,
            )
            for kept, mask in zip(IDS.values(), good, strict=True):
                np.save(folder / f"kept-{kept}.npy", mask)
            users, items = users.only(good[0]), items.only(good[1])
        files.arrow("users.arrow", "id", users.ids)
        files.arrow("items.arrow", "id", items.ids)
        sizes, tied = {"impressions": 0}, 0
        for number, (log, spill) in enumerate(spills.items()):
            begun = 0.6 + 0.12 * number
            ranges = [Range(spill, place) for place in range(len(spill.bounds) - 1)]
            found = []
            for done, result in enumerate(each(partial(sort_range, filtered=bool(filters)), ranges)):
                report(f"sorting {log}", begun + 0.08 * done / len(ranges))
                spill.remove(done)
                found.append(result)
            report(f"writing {log}", begun + 0.08)
            sizes[log] = sum(size for size, _ in found)
            tied += sum(ties for _, ties in found) if log == "events" else 0
            _write_log(files, spill, sizes[log])
        shutil.rmtree(folder)
        report("writing features", 0.85)
        log_counts = LogCounts(
            events=sizes["events"],
            impressions=sizes["impressions"],
            tied_events=tied,
            filtered_events=read[0] - sizes["events"],
            filtered_impressions=read[1] - sizes["impressions"],
        )
        write_header(files, name or path.name, interactions, users, items, log_counts, filters, skipped, report)
    report("done", 1.0)
    return Dataset.open(path)


def _numbered(
    runs: Sequence[Run], key: str, interactions: ParquetInteractions, skipped: SkippedRows
) -> tuple[Vocabulary, np.ndarray, np.ndarray]:
    """The vocabulary of all ids, left in the folder for ``deal``, and the events and impressions of each row."""
    paths = [run.counts(key) for run in runs]
    if not any(path.exists() for path in paths):
        raise ValueError(f"{interactions.source}: no events left: all {skipped.count} rows are bad. {skipped}")
    vocabulary, events, impressions = merged(paths)
    if not events.any():
        raise ValueError(f"{interactions.source}: the label is 0 in every row: there are no clicks")
    vocabulary.save(runs[0].folder / f"{IDS[key]}.arrow")
    return vocabulary, events, impressions


def _refuse_unrelated(interactions: ParquetInteractions, users: Vocabulary, items: Vocabulary) -> None:
    """Raises ValueError where no row of a feature table is of a user (item) of the files."""
    for key, frame, vocabulary in (
        ("user_id", interactions.user_features, users),
        ("item_id", interactions.item_features, items),
    ):
        if frame is not None and len(frame) and (vocabulary.rows(frame[key]) == UNKNOWN).all():
            raise unrelated(interactions.source, key, len(frame), frame[key][0], vocabulary.external([FIRST_ROW])[0])


def _columns(interactions: ParquetInteractions, log: str) -> tuple[str, ...]:
    """Of value and part those that a log has."""
    columns = interactions.columns
    has_value = columns.value is not None and (log == "events" or columns.label is not None)
    return tuple(name for name, has in (("value", has_value), ("part", columns.part is not None)) if has)


def _write_log(files: DirectoryFiles, spill: EventSpill, size: int) -> None:
    """Puts the sorted ranges together, a column at a time."""
    ranges = [Range(spill, place) for place in range(len(spill.bounds) - 1)]

    def pieces(name: str, dtype: np.dtype) -> Iterator[np.ndarray]:
        for task in ranges:
            yield np.fromfile(task.column(name), dtype)
            task.column(name).unlink()

    types = {name: spill.dtype[name] for name in ("user", "item", "time", *spill.columns)}
    for name, dtype in {**types, "ties": np.dtype(np.int32)}.items():
        files.array_of(f"{spill.log}/{name}.npy", dtype, (size,), pieces(name, dtype))
    offsets = np.concatenate([[0], *pieces("offsets", np.dtype(np.int64))]).cumsum()
    files.array(f"{spill.log}/offsets.npy", offsets)
