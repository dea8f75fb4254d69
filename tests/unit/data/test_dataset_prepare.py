"""prepare_dataset: the same bytes as a Dataset made in memory, however the files and the work are cut."""

from __future__ import annotations

import itertools
import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.data import parquet_interactions, prepare_tasks
from corral.data.dataset import Dataset
from corral.data.dataset_prepare import prepare_dataset
from corral.data.event_spill import EventSpill, SpillWriter, user_ranges
from corral.data.feature_fit import feature_gaps
from corral.data.interactions import ColumnMap, Interactions
from corral.data.parquet_interactions import ParquetInteractions, parquet_files
from corral.data.readers import tabular

COLUMNS = ColumnMap("who", "what", "when", value="stars", label="clicked", part="given")
FEATURES = pl.DataFrame({"what": [f"i{n}" for n in range(40)], "title": "T", "tags": [["a", "b"]] * 40, "price": 1.5})


@pytest.fixture(scope="module", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def log(rows: int, seed: int = 0) -> pl.DataFrame:
    """Events with ties, labels, a given split; ids as text."""
    random = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "who": [f"ü{n}" for n in random.zipf(1.3, rows) % 50],
            "what": [f"i{n}" for n in random.integers(0, 30, rows)],
            "when": random.integers(5, 60, rows),
            "stars": random.random(rows),
            "clicked": random.integers(0, 2, rows),
            "given": random.integers(0, 3, rows),
            "more": "not asked for",
        }
    )


def write_files(folder: Path, frame: pl.DataFrame, *cuts: int) -> Path:
    """The frame in Parquet files, in order."""
    folder.mkdir()
    bounds = [0, *cuts, len(frame)]
    for place, (start, stop) in enumerate(itertools.pairwise(bounds)):
        frame[start:stop].write_parquet(folder / f"{place:03d}.parquet")
    return folder


def parts(folder: Path, columns: ColumnMap = COLUMNS, **more: Any) -> ParquetInteractions:
    files = parquet_files(folder)
    assert files is not None
    return ParquetInteractions.open(files, columns, source=folder.name, **more)


def assert_same(one: Dataset, other: Dataset) -> None:
    """The header, checksums included, and every byte."""
    assert one.header == other.header
    found, wanted = (
        {path.relative_to(data.path): path.read_bytes() for path in data.path.rglob("*") if path.is_file()}
        for data in (one, other)
    )
    assert found == wanted


@pytest.mark.parametrize(
    ("writers", "filters"),
    [
        (1, {}),
        (3, {"min_user_events": 5}),
        (50, {"min_item_events": 12}),
        (2, {"min_user_events": 4, "min_item_events": 8, "iterate": True}),
    ],
)
def test_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writers: int, filters: dict[str, Any]) -> None:
    """With ties across files, batches and tasks; features; impressions; an empty file; a user larger than a range."""
    monkeypatch.setattr(parquet_interactions, "BATCH_ROWS", 64)
    frame = log(600)
    whole = tabular.read(frame, columns=COLUMNS, item_features=FEATURES, text_columns=["title"], licence="CC0")
    whole = Interactions(**{**vars(whole), "source": "many"})
    wanted = Dataset.write(tmp_path / "a", whole, name="d", **filters)
    many = parts(
        write_files(tmp_path / "many", frame, 100, 100, 437, 500),
        item_features=FEATURES,
        text_columns=["title"],
        licence="CC0",
    )
    found = prepare_dataset(tmp_path / "b", many, name="d", events_in_memory=100, writers=writers, **filters)
    assert_same(found, wanted)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_the_same_bytes_whatever_the_events(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("prepare")
    event = st.tuples(st.integers(-3, 4), st.integers(2**60, 2**60 + 3), st.integers(0, 2**34))
    rows = data.draw(st.lists(event, min_size=2, max_size=30))
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    cut, most = data.draw(st.integers(0, len(rows))), data.draw(st.integers(1, 8))
    named = ColumnMap(timestamp=data.draw(st.sampled_from(["timestamp", None])))
    bounds = {"min_user_events": data.draw(st.integers(1, 2)), "iterate": True, "name": "d"}
    shown = pl.DataFrame(rows[:3], schema=["user_id", "item_id", "timestamp"], orient="row")
    shown.write_parquet(folder / "shown.parquet")
    whole = tabular.read(frame, columns=named, impressions=folder / "shown.parquet")
    many = parts(write_files(folder / "many", frame, cut), named, impressions=[folder / "shown.parquet"])
    try:
        wanted = Dataset.write(folder / "a", Interactions(**{**vars(whole), "source": "many"}), **bounds)
    except ValueError as error:
        with pytest.raises(ValueError, match=f"^{re.escape(str(error))}$"):
            prepare_dataset(folder / "b", many, events_in_memory=most, **bounds)
        return
    assert_same(prepare_dataset(folder / "b", many, events_in_memory=most, writers=2, **bounds), wanted)


def test_no_more_in_memory_than_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a batch of rows nor a range of users is larger, and nothing is left of what was put on the disk."""
    monkeypatch.setattr(parquet_interactions, "BATCH_ROWS", 32)
    batches: list[int] = []
    ranges: list[int] = []
    check, sort = parquet_interactions.check_rows, prepare_tasks.sort_events

    def note_batch(frame: pl.DataFrame, *rest: Any, **options: Any) -> Any:
        batches.append(len(frame))
        return check(frame, *rest, **options)

    def note_range(user: np.ndarray, *rest: Any) -> Any:
        ranges.append(len(user))
        return sort(user, *rest)

    monkeypatch.setattr(parquet_interactions, "check_rows", note_batch)
    monkeypatch.setattr(prepare_tasks, "sort_events", note_range)
    frame = log(500).with_columns(who=pl.int_range(500) % 100)
    steps: list[float] = []
    prepare_dataset(
        tmp_path / "d",
        parts(write_files(tmp_path / "many", frame, 77)),
        events_in_memory=20,
        progress=lambda _, done: steps.append(done),
    )
    assert sum(batches) == 2 * 500
    assert max(batches) == 32
    assert sum(ranges) == 500
    assert max(ranges) <= 20
    assert steps == sorted(steps)
    assert steps[-1] == 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "many"]
    assert not (tmp_path / "d" / "spill").exists()


def test_ranges_hold_no_more_than_they_may() -> None:
    events = np.array([0, 0, 3, 1, 9, 0, 2, 2, 0])
    bounds = user_ranges(events, 4)
    assert bounds == (0, 4, 5, 9)  # user row 4 has more by itself
    assert user_ranges(events, 100) == (0, 9)


BAD = log(90).with_columns(
    when=pl.when(pl.int_range(90) == 70).then(-1).otherwise(pl.col("when")),
    who=pl.when(pl.int_range(90) == 85).then(None).otherwise(pl.col("who")),
)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_more_ranges_than_files_may_be_open(tmp_path: Path) -> None:
    spill = EventSpill(tmp_path, "events", tuple(range(201)), 1, ())
    records = np.zeros(400, spill.dtype)
    records["user"], records["time"] = np.tile(np.arange(200), 2), np.arange(400)
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 50, allowed[1]))
    try:
        for _ in range(2):  # what a first attempt wrote does not count
            writer = SpillWriter(spill, 0)
            writer.add(records[:200])
            writer.add(records[200:])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, allowed)
    assert [spill.read(place)["time"].tolist() for place in range(200)] == [[at, at + 200] for at in range(200)]


def test_bad_rows_are_named_by_file_and_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_interactions, "BATCH_ROWS", 8)
    folder = write_files(tmp_path / "many", BAD, 50)
    with pytest.raises(ValueError, match=r"001\.parquet, row 20 \(from 0\), column 'when': -1: negative time"):
        prepare_dataset(tmp_path / "d", parts(folder))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many"]
    found = prepare_dataset(tmp_path / "d", parts(folder, skip_bad_rows=True), writers=2)
    assert found.header.counts.skipped_rows == 2
    assert "001.parquet, row 35, column 'who'" in found.header.skipped_examples[1]
    good = tabular.read(BAD, columns=COLUMNS, skip_bad_rows=True)
    assert found.header.files == Dataset.write(tmp_path / "whole", good).header.files


def test_a_batch_of_bad_rows_is_skipped_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_interactions, "BATCH_ROWS", 10)
    frame = log(30).with_columns(when=pl.when(pl.int_range(30) < 10).then(-1).otherwise(pl.col("when")))
    folder = write_files(tmp_path / "many", frame)
    found = prepare_dataset(tmp_path / "d", parts(folder, skip_bad_rows=True))
    assert found.header.counts.skipped_rows == 10
    bad = write_files(tmp_path / "bad", frame[:10])
    with pytest.raises(ValueError, match="bad: no events left: all 10 rows are bad"):
        prepare_dataset(tmp_path / "e", parts(bad, skip_bad_rows=True))


def test_what_cannot_be_read_is_refused_before_the_work(tmp_path: Path) -> None:
    frame = log(10)
    folder = write_files(tmp_path / "many", frame)
    with pytest.raises(ValueError, match=r"000\.parquet: no column 'whom'.*nearest is 'who'"):
        parts(folder, ColumnMap("whom", "what", "when"))
    frame.with_columns(pl.col("when").cast(pl.String)).write_parquet(folder / "001.parquet")
    with pytest.raises(ValueError, match=r"001\.parquet: column 'when' holds text: cast it"):
        parts(folder)
    frame.with_columns(who=pl.int_range(10)).write_parquet(folder / "001.parquet")
    with pytest.raises(
        ValueError, match=r"001\.parquet: column 'who' holds int64 ids, those of .*000\.parquet are str"
    ):
        parts(folder)
    whole = (folder / "000.parquet").read_bytes()
    (folder / "001.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"001\.parquet: damaged or truncated"):
        parts(folder)
    (folder / "001.parquet").unlink()
    frame[:0].write_parquet(folder / "000.parquet")
    with pytest.raises(ValueError, match="many: no events"):
        parts(folder)
    frame.with_columns(clicked=0).write_parquet(folder / "000.parquet")
    with pytest.raises(ValueError, match="the label is 0 in every row"):
        prepare_dataset(tmp_path / "d", parts(folder))
    with pytest.raises(ValueError, match="given twice"):
        parts(folder, impressions=[folder / "000.parquet"])
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("ids", ["text", "numbers"])
def test_files_without_ids_do_not_say_what_ids_are(tmp_path: Path, ids: str) -> None:
    """Columns of an empty pandas frame have no type, nor has one whose ids are all missing: those rows are bad."""
    frame = log(60)
    if ids == "numbers":
        frame = frame.with_columns(pl.col("who", "what").str.slice(1).cast(pl.Int64))
    folder = write_files(tmp_path / "many", frame, 20)
    nobody = frame.with_columns(who=None)
    for name, empty in (("00.parquet", nobody[:0]), ("03.parquet", frame.clear().cast({"who": pl.String}))):
        empty.write_parquet(folder / name)
    wanted = Dataset.write(tmp_path / "one", tabular.read(frame, columns=COLUMNS))
    assert prepare_dataset(tmp_path / "d", parts(folder)).hash == wanted.hash
    nobody[:5].write_parquet(folder / "0.parquet")
    with pytest.raises(ValueError, match=r"0\.parquet, row 0 \(from 0\), column 'who': None: missing id"):
        prepare_dataset(tmp_path / "e", parts(folder))
    found = prepare_dataset(tmp_path / "e", parts(folder, skip_bad_rows=True), writers=3)
    assert found.header.counts.skipped_rows == 5
    assert found.header.files == wanted.header.files
    with pytest.raises(ValueError, match="nobody: column 'who' is empty in all files"):
        parts(write_files(tmp_path / "nobody", nobody))


def test_damage_within_a_file_is_named(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "many", log(3000))
    file = folder / "000.parquet"
    content = bytearray(file.read_bytes())
    content[200:2000] = b"\xff" * 1800
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"000\.parquet: damaged or truncated"):
        prepare_dataset(tmp_path / "d", parts(folder))


def test_which_files(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "many", log(10), 2, 5)
    (folder / "_SUCCESS").touch()
    (folder / "day=2").mkdir()
    log(3).write_parquet(folder / "day=2" / "x.pq")
    names = ["000.parquet", "001.parquet", "002.parquet", "x.pq"]
    assert [path.name for path in parquet_files(folder) or ()] == names
    assert [path.name for path in parquet_files(folder / "00[12].*") or ()] == names[1:3]
    assert [path.name for path in parquet_files(folder / "**" / "*.pq") or ()] == names[3:]
    assert parquet_files(folder / "000.parquet") is None
    assert parquet_files(tmp_path / "events.csv") is None
    with pytest.raises(ValueError, match=r"no Parquet files there \(.parquet, .pq\)"):
        parquet_files(folder / "z*")


def test_features_that_fit_badly_are_counted_and_those_that_fit_nowhere_refused(tmp_path: Path) -> None:
    frame = log(60).with_columns(what=pl.col("what").str.slice(1).cast(pl.Int64))
    folder, present = write_files(tmp_path / "many", frame, 20), frame["what"].n_unique()
    keys = ["3", "x", "03", "77"]
    features = pl.DataFrame({"what": keys, "price": 1.5})
    dataset = prepare_dataset(tmp_path / "d", parts(folder, item_features=features))
    one = tabular.read(frame, columns=COLUMNS, item_features=features)
    assert dataset.header.counts == Dataset.write(tmp_path / "one", one).header.counts
    assert [str(gap) for gap in feature_gaps(parts(folder, item_features=features), dataset.header.counts)] == [
        f"item features: {present - 1} of {present} items have no row, 3 rows are of no item of the data"
    ]

    def add(table: pl.DataFrame) -> None:
        prepare_dataset(tmp_path / "bad", parts(folder, item_features=table))

    for bad, theirs, ours in ((["SKU3", "SKU4"], "'SKU3'", frame["what"][0]), (["77", "78"], "77", r"\d+")):
        message = rf"none of the 2 rows is of an item .* {theirs} in .* and {ours} in the events"
        with pytest.raises(ValueError, match=message):
            add(pl.DataFrame({"what": bad, "price": 1.5}))
    assert not (tmp_path / "bad").exists()


def test_dates_in_the_unit_that_was_named(tmp_path: Path) -> None:
    dates = log(40).with_columns(when=pl.datetime(2023, 11, 14, 12) + pl.duration(milliseconds=pl.int_range(40) * 7))
    many = parts(write_files(tmp_path / "many", dates, 11), time_unit="milliseconds")
    one = tabular.read(dates, columns=COLUMNS, time_unit="milliseconds")
    prepared = prepare_dataset(tmp_path / "d", many)
    assert prepared.hash == Dataset.write(tmp_path / "one", one).hash
    assert int(prepared.events.time.min()) // 1000 == 1699963200
    with pytest.raises(ValueError, match="time_unit 'weeks': expected one of"):
        parts(tmp_path / "many", time_unit="weeks")
    numbers = write_files(tmp_path / "numbers", dates.with_columns(pl.col("when").dt.epoch("ms")))
    with pytest.raises(ValueError, match=r"000\.parquet: column 'when': 16999\d+ seconds is the year 55,8\d\d: say "):
        prepare_dataset(tmp_path / "wrong", parts(numbers))


def test_the_order_within_a_second_is_kept_from_file_to_file(tmp_path: Path) -> None:
    """The newest first; no second lies in two files."""
    newest = pl.datetime(2023, 11, 14, 12) - pl.duration(milliseconds=pl.int_range(40) * 200)
    dates = log(40).with_columns(who=pl.lit(1), when=newest, clicked=pl.lit(1))
    prepared = prepare_dataset(tmp_path / "d", parts(write_files(tmp_path / "many", dates, 21)))
    one = Dataset.write(tmp_path / "one", tabular.read(dates, columns=COLUMNS))
    assert prepared.items.external(prepared.events.item) == dates["what"].reverse().to_list()
    assert one.items.external(one.events.item) == dates["what"].reverse().to_list()


def test_files_sorted_by_user_make_the_same_data_set(tmp_path: Path) -> None:
    """Where times do not tie, the order of the rows is not in the data set: nor can it be in a training."""
    frame = log(300).with_columns(when=pl.int_range(300).shuffle(seed=1))
    orders = {"by-time": frame.sort("when"), "by-user": frame.sort("who"), "as-made": frame}
    made = {
        name: prepare_dataset(tmp_path / f"d-{name}", parts(write_files(tmp_path / name, rows, 100)), writers=2)
        for name, rows in orders.items()
    }
    assert len({dataset.hash for dataset in made.values()}) == 1
