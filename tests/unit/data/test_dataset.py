"""Dataset directories: sorted, numbered, whole or not at all, and refused when damaged."""

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.data import dataset_write, event_sort
from corral.data.dataset import Dataset, as_tensor
from corral.data.dataset_header import UNWEIGHTED_VERSION
from corral.data.features import FeatureKind
from corral.data.interactions import Interactions, read_table

EVENTS = pl.DataFrame(
    {
        "user_id": ["b", "a", "b", "ü", "b"],
        "item_id": [10, 20, 30, 10, 20],
        "timestamp": [5, 6, 5, 1, 2],
        "value": pl.Series([1.0, 2.0, 3.0, 4.0, 5.0], dtype=pl.Float32),
        "part": pl.Series([0, 1, 2, 0, 0], dtype=pl.Int8),
    }
)
IMPRESSIONS = pl.DataFrame({"user_id": ["b", "c", "a"], "item_id": [40, 10, 20], "timestamp": [5, 3, 2]})
ITEM_FEATURES = pl.DataFrame(
    {
        "item_id": [30, 10, 99],
        "title": ["Thirty", "Ten", "?"],
        "genres": [["x", "y"], ["y"], ["z"]],
        "price": [1.0, None, 2.0],
        "brand/é": ["p", "q", "r"],
    }
)
FULL = Interactions(
    EVENTS,
    impressions=IMPRESSIONS,
    item_features=ITEM_FEATURES,
    user_features=pl.DataFrame({"user_id": ["ü", "b"], "age": [30, 40]}),
    text_columns=frozenset({"title"}),
    source="by hand",
    licence="CC0",
)


@pytest.fixture(scope="module", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """fsync takes most of the time of small data sets; one test looks at it on its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture
def full(tmp_path: Path) -> Dataset:
    return Dataset.write(tmp_path / "full", FULL, name="hand-made")


def _leftovers(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_events_are_numbered_and_sorted(full: Dataset) -> None:
    log = full.events
    assert full.users.ids.to_pylist() == ["a", "b", "c", "ü"]
    assert full.items.ids.to_pylist() == [10, 20, 30, 40]
    assert (full.n_users, full.n_items, len(log)) == (6, 6, 5)
    assert log.user.tolist() == [2, 3, 3, 3, 5]
    assert log.item.tolist() == [3, 3, 2, 4, 2]
    assert log.time.tolist() == [6, 2, 5, 5, 1]
    assert log.ties.tolist() == [0, 0, 0, 1, 0]
    assert log.offsets.tolist() == [0, 0, 0, 1, 4, 4, 5]
    assert log.value is not None
    assert log.value.tolist() == [2.0, 5.0, 1.0, 3.0, 4.0]
    assert log.part is not None
    assert log.part.tolist() == [1, 0, 0, 2, 0]
    types = [array.dtype for array in (log.user, log.item, log.time, log.ties, log.offsets, log.value, log.part)]
    assert types == [np.int32, np.int32, np.int64, np.int32, np.int64, np.float32, np.int8]


def test_impressions_beside_events(full: Dataset) -> None:
    shown = full.impressions
    assert shown is not None
    assert shown.user.tolist() == [2, 3, 4]
    assert shown.item.tolist() == [3, 5, 2]
    assert shown.offsets.tolist() == [0, 0, 0, 1, 2, 3, 3]
    assert shown.value is None


def test_features_by_row(full: Dataset) -> None:
    columns = full.item_features.columns
    assert list(columns) == ["title", "genres", "price", "brand/é"]
    assert columns["title"].texts is not None
    assert columns["title"].texts.to_pylist() == ["", "", "Ten", "", "Thirty", ""]
    assert columns["genres"].padded(5).tolist() == [[0, 0], [0, 0], [3, 0], [0, 0], [2, 3], [0, 0]]
    assert np.isnan(columns["price"].values[2])
    assert columns["brand/é"].kind is FeatureKind.CATEGORICAL
    assert columns["brand/é"].cardinality == 4
    assert full.user_features.columns["age"].values.tolist() == [0, 0, 0, 3, 0, 2]


def test_header(full: Dataset) -> None:
    header = full.header
    assert (header.name, full.name, header.source, header.licence) == (
        "hand-made",
        "hand-made",
        "by hand",
        "CC0",
    )
    assert header.time_unit == "seconds"
    assert header.format_version == UNWEIGHTED_VERSION
    counts = header.counts
    assert (counts.users, counts.items, counts.events, counts.impressions) == (4, 4, 5, 3)
    assert (counts.tied_events, counts.filtered_events, counts.unused_item_features) == (1, 0, 1)
    on_disk = {str(path.relative_to(full.path)) for path in full.path.rglob("*") if path.is_file()}
    assert on_disk == {*header.files, "header.json"}
    assert header.files["events/item.npy"].dtype == "int32"
    assert header.files["events/item.npy"].shape == (5,)
    full.verify()


def test_columns_are_mapped_read_only_and_shared_with_torch(full: Dataset) -> None:
    assert isinstance(full.events.item.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        full.events.item[0] = 1
    tensor = as_tensor(full.events.item)
    assert tensor.dtype == torch.int32
    assert tensor.tolist() == full.events.item.tolist()
    assert tensor.data_ptr() == full.events.item.ctypes.data


def test_opening_reads_no_column(tmp_path: Path) -> None:
    """A column of 40 GB (a sparse file) opens in milliseconds."""
    path = tmp_path / "large"
    Dataset.write(path, Interactions(EVENTS))
    header = json.loads((path / "header.json").read_text())
    rows = 5_000_000_000
    entry = header["files"]["events/time.npy"]
    with open(path / "events/time.npy", "wb") as stream:
        array_header = {"descr": "<i8", "fortran_order": False, "shape": (rows,)}
        np.lib.format.write_array_header_1_0(stream, array_header)
        entry["bytes"] = stream.tell() + rows * 8
        stream.truncate(entry["bytes"])
    entry["shape"] = [rows]
    (path / "header.json").write_text(json.dumps(header))
    start = time.process_time()
    opened = Dataset.open(path)
    assert time.process_time() - start < 0.5
    assert opened.events.time.shape == (rows,)
    assert opened.events.time[rows - 1] == 0


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_sorting_matches_a_plain_loop(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    kinds = [
        data.draw(
            st.sampled_from(
                [
                    (pl.Int64, st.integers(0, 5)),
                    (pl.Int64, st.sampled_from([-(2**63), -1, 0, 2**62, 2**63 - 1])),
                    (pl.String, st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3)),
                ]
            )
        )
        for _ in range(2)
    ]
    times = data.draw(st.sampled_from([st.integers(0, 3), st.integers(0, 2**63 - 1)]))
    rows = data.draw(st.lists(st.tuples(kinds[0][1], kinds[1][1], times), min_size=1, max_size=30))
    schema = {"user_id": kinds[0][0], "item_id": kinds[1][0], "timestamp": pl.Int64}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    dataset = Dataset.write(tmp_path_factory.mktemp("sort") / "d", Interactions(frame))
    expected = sorted(rows, key=lambda row: (row[0], row[2]))  # Stable: ties keep the source's order.
    log = dataset.events
    external = zip(dataset.users.external(log.user), dataset.items.external(log.item), log.time.tolist(), strict=True)
    assert list(external) == expected
    ties = [0]
    for before, row in itertools.pairwise(expected):
        ties.append(ties[-1] + 1 if (before[0], before[2]) == (row[0], row[2]) else 0)
    assert log.ties.tolist() == ties
    assert len(log.offsets) == dataset.n_users + 1
    for row in range(dataset.n_users):
        assert set(log.user[log.offsets[row] : log.offsets[row + 1]].tolist()) <= {row}
    assert log.offsets[0] == log.offsets[1] == log.offsets[2] == 0
    assert log.offsets[-1] == len(rows)


def test_times_too_large_for_one_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usual = Dataset.write(tmp_path / "a", FULL)
    monkeypatch.setattr(event_sort, "_KEY_LIMIT", 1)
    assert Dataset.write(tmp_path / "b", FULL).hash == usual.hash


def test_hash_depends_on_contents_only(tmp_path: Path, full: Dataset) -> None:
    assert Dataset.write(tmp_path / "other", FULL, name="another name").hash == full.hash
    changed = EVENTS.with_columns(timestamp=pl.Series([5, 6, 5, 1, 3]))
    assert Dataset.write(tmp_path / "c", Interactions(changed)).hash != full.hash


# Filters


def _pairs(pairs: str) -> Interactions:
    users, items = zip(*(pair for pair in pairs.split()), strict=True)
    frame = pl.DataFrame({"user_id": users, "item_id": items})
    return read_table(frame.with_columns(timestamp=pl.int_range(pl.len())))


def _kept(dataset: Dataset) -> str:
    log = dataset.events
    pairs = zip(dataset.users.external(log.user), dataset.items.external(log.item), strict=True)
    return " ".join(user + item for user, item in pairs)


def test_filters_are_one_pass_items_then_users(tmp_path: Path) -> None:
    # z is rare; without it user 3 is rare; without user 3 item y is rare, which one pass leaves alone.
    world = _pairs("1x 1w 2x 2w 3y 3z 1y")
    once = Dataset.write(tmp_path / "once", world, min_user_events=2, min_item_events=2)
    assert _kept(once) == "1x 1w 1y 2x 2w"
    assert once.items.ids.to_pylist() == ["w", "x", "y"]
    assert once.users.ids.to_pylist() == ["1", "2"]
    assert once.header.counts.filtered_events == 2
    core = Dataset.write(tmp_path / "core", world, min_user_events=2, min_item_events=2, iterate=True)
    assert _kept(core) == "1x 1w 2x 2w"
    assert core.header.iterate
    assert core.items.ids.to_pylist() == ["w", "x"]


def test_filter_that_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="min_user_events=9, min_item_events=1 leave none of 5 events"):
        Dataset.write(tmp_path / "d", FULL, min_user_events=9)
    assert _leftovers(tmp_path) == []


def test_filters_and_impressions(tmp_path: Path) -> None:
    dataset = Dataset.write(tmp_path / "d", FULL, min_item_events=2)
    # Items 30 (one event) and 40 (only shown) go; user c is known from its impression of item 10.
    assert dataset.items.ids.to_pylist() == [10, 20]
    assert dataset.users.ids.to_pylist() == ["a", "b", "c", "ü"]
    assert dataset.impressions is not None
    assert len(dataset.impressions) == 2
    assert dataset.header.counts.filtered_impressions == 1
    dataset = Dataset.write(tmp_path / "e", FULL, min_user_events=3)
    assert dataset.users.ids.to_pylist() == ["b"]
    assert dataset.items.ids.to_pylist() == [10, 20, 30, 40]


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60),
    st.integers(1, 3),
    st.data(),
)
def test_k_core_is_a_fixed_point(
    tmp_path_factory: pytest.TempPathFactory, pairs: list, minimum: int, data: st.DataObject
) -> None:
    other = data.draw(st.integers(1, 3))
    left = pairs
    while True:
        items = [pair[1] for pair in left]
        after = [pair for pair in left if items.count(pair[1]) >= other]
        users = [pair[0] for pair in after]
        after = [pair for pair in after if users.count(pair[0]) >= minimum]
        if after == left:
            break
        left = after
    frame = pl.DataFrame(pairs, schema={"user_id": pl.Int64, "item_id": pl.Int64}, orient="row")
    world = Interactions(frame.with_columns(timestamp=pl.int_range(pl.len(), dtype=pl.Int64)))
    path = tmp_path_factory.mktemp("core") / "d"
    if not left:
        with pytest.raises(ValueError, match="leave none"):
            Dataset.write(path, world, min_user_events=minimum, min_item_events=other, iterate=True)
        return
    dataset = Dataset.write(path, world, min_user_events=minimum, min_item_events=other, iterate=True)
    log = dataset.events
    kept = list(zip(dataset.users.external(log.user), dataset.items.external(log.item), strict=True))
    assert sorted(kept) == sorted(left)
    assert dataset.users.ids.to_pylist() == sorted({pair[0] for pair in left})
    assert dataset.items.ids.to_pylist() == sorted({pair[1] for pair in left})


# Whole or not at all


def test_existing_directories(tmp_path: Path, full: Dataset) -> None:
    with pytest.raises(FileExistsError, match=r"exists already.*overwrite=True"):
        Dataset.write(full.path, Interactions(EVENTS))
    replaced = Dataset.write(full.path, Interactions(EVENTS), overwrite=True)
    assert replaced.impressions is None
    assert full.impressions is not None
    assert full.impressions.item.tolist() == [3, 5, 2]  # What was open stays readable.
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match=r"no header\.json, so it is not ours to replace"):
        Dataset.write(home, FULL, overwrite=True)
    assert _leftovers(tmp_path) == ["full", "home"]
    assert _leftovers(home) == ["letter.txt"]


def test_overwrite_without_exchange(tmp_path: Path, full: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    assert Dataset.write(full.path, Interactions(EVENTS), overwrite=True).impressions is None
    assert _leftovers(tmp_path) == ["full"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("step", ["_write_log", "_write_features", "DatasetHeader"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_interrupted_writes_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], step: str, overwrite: bool
) -> None:
    if overwrite:
        before = Dataset.write(tmp_path / "d", Interactions(EVENTS)).hash

    def fail(*_: object, **__: object) -> None:
        raise error("no space left")

    monkeypatch.setattr(dataset_write, step, fail)
    with pytest.raises(error):
        Dataset.write(tmp_path / "d", FULL, overwrite=overwrite)
    assert _leftovers(tmp_path) == (["d"] if overwrite else [])
    if overwrite:
        opened = Dataset.open(tmp_path / "d")
        opened.verify()
        assert opened.hash == before


def test_every_file_and_directory_is_flushed_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: set[int] = set()

    def note(descriptor: int) -> None:
        flushed.add(os.fstat(descriptor).st_ino)

    def rename(source: Path, target: Path) -> None:
        assert flushed >= {entry.stat().st_ino for entry in [Path(source), *Path(source).rglob("*")]}
        os.replace(source, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "rename", rename)
    Dataset.write(tmp_path / "d", FULL)
    assert tmp_path.stat().st_ino in flushed


def test_progress_is_reported(tmp_path: Path) -> None:
    steps: list[tuple[str, float]] = []
    dataset = Dataset.write(tmp_path / "d", FULL, progress=lambda *step: steps.append(step))
    fractions = [fraction for _, fraction in steps]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    seen: list[float] = []
    dataset.verify(progress=lambda _, fraction: seen.append(fraction))
    assert seen[-1] == 1.0


# Damage


def _files() -> list[str]:
    return [
        "users.arrow",
        "events/user.npy",
        "events/offsets.npy",
        "impressions/time.npy",
        "item_features/001.values.npy",
        "item_features/000.texts.arrow",
    ]


@pytest.mark.parametrize("file", _files())
def test_truncated_files_are_named(full: Dataset, file: str) -> None:
    path = full.path / file
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=f"{file}: truncated: .* bytes where the header says"):
        Dataset.open(full.path)
    path.write_bytes(path.read_bytes() + bytes(50))
    with pytest.raises(ValueError, match=f"{file}: damaged"):
        Dataset.open(full.path)
    path.unlink()
    with pytest.raises(ValueError, match=f"{file}: missing"):
        Dataset.open(full.path)


@pytest.mark.parametrize("file", _files())
def test_changed_bytes_are_found_by_verify(full: Dataset, file: str) -> None:
    path = full.path / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file}: damaged"):
        Dataset.open(full.path).verify()


@pytest.mark.parametrize("file", _files())
def test_garbage_of_the_right_size_is_named(full: Dataset, file: str) -> None:
    path = full.path / file
    path.write_bytes(b"\x80garbage!"[:9] * (path.stat().st_size // 9) + bytes(path.stat().st_size % 9))
    with pytest.raises(ValueError, match=f"{file}: "):
        Dataset.open(full.path)


def test_files_that_are_not_what_the_header_says(full: Dataset) -> None:
    np.save(full.path / "events/user.npy", np.zeros(5, dtype=np.float32))
    with pytest.raises(ValueError, match=r"user\.npy: float32 \(5,\) where the header says int32 \(5,\)"):
        Dataset.open(full.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "damaged or truncated header"),
        (lambda text: "[]", "not the header of a Dataset"),
        (lambda text: text.replace("corral dataset", "something else"), "not the header of a Dataset"),
        (
            lambda text: text.replace('"format_version": 1', '"format_version": 3'),
            "version 3, but .* up to version 2",
        ),
        (lambda text: text.replace('"licence": "CC0",', ""), "damaged header: licence: Field required"),
        (
            lambda text: text.replace('"licence": "CC0",', '"licence": "CC0", "more": 1,'),
            "damaged header: more",
        ),
        (lambda text: text.replace("events/item.npy", "events/thing.npy"), r"thing\.npy: missing"),
    ],
)
def test_damaged_headers(full: Dataset, change: Callable[[str], str], message: str) -> None:
    path = full.path / "header.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message):
        Dataset.open(full.path)


def test_no_dataset_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such directory"):
        Dataset.open(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no header\.json in it: not a Dataset directory"):
        Dataset.open(tmp_path)
