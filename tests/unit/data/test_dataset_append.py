"""append_events: the same bytes as a Dataset of all events at once; what does not fit is refused, nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.data import dataset_append
from corral.data.dataset import Dataset
from corral.data.dataset_append import AlreadyThereError, append_events
from corral.data.forget import forget_user
from corral.data.interactions import ColumnMap, Interactions
from corral.data.readers import tabular

EVENTS = pl.DataFrame(
    {
        "user_id": ["b", "a", "b", "c", "ü", "b", "a", "d"],
        "item_id": [10, 20, 30, 10, 20, 40, 50, 10],
        "timestamp": [5, 6, 5, 1, 2, 5, 6, 0],
        "stars": [1.0, 2.5, 3.0, 4.0, 5.0, 0.5, 1.0, 2.0],
        "given": ["train", "valid", "train", "test", "train", "train", "test", "train"],
        "clicked": [1, 0, 1, 1, 1, 1, 1, 0],
    }
)
FEATURES = pl.DataFrame(
    {
        "item_id": [10, 20, 30, 40, 50],
        "title": ["Ten", "", None, "Forty", "Fifty"],
        "genres": [["x", "y"], [], None, ["w"], ["y"]],
        "price": [1.0, None, 0.1, 2.5, 3.0],
        "brand": ["p", "q", None, "a", "q"],
        "size": [None, 3, 2, 1, 3],
        "late": [None, None, None, "here", None],
    }
)
COLUMNS = ColumnMap(value="stars", part="given", label="clicked")


def assert_same_columns(one: Dataset, other: Dataset) -> None:
    """Byte for byte, and so by the hash of the contents."""
    assert one.header.files == other.header.files
    for file in one.header.files:
        assert (one.path / file).read_bytes() == (other.path / file).read_bytes(), file
    assert one.hash == other.hash
    assert one.header.counts == other.header.counts
    one.verify()


def read(events: pl.DataFrame, features: pl.DataFrame | None = None) -> Interactions:
    texts = [] if features is None else ["title"]
    return tabular.read(events, columns=COLUMNS, item_features=features, text_columns=texts)


@pytest.mark.parametrize("cut", range(2, 8))
def test_as_all_at_once(tmp_path: Path, cut: int) -> None:
    """New users and items; ties in time across the seam; impressions; features of every kind, one of them new."""
    whole = Dataset.write(tmp_path / "whole", read(EVENTS, FEATURES))
    known = FEATURES.filter(pl.col("item_id").is_in(EVENTS["item_id"][:cut].implode()))
    Dataset.write(tmp_path / "grown", read(EVENTS[:cut], known), name="grown")
    new = FEATURES.filter(~pl.col("item_id").is_in(known["item_id"].implode()))
    grown = append_events(tmp_path / "grown", EVENTS[cut:], COLUMNS, item_features=new)
    assert_same_columns(grown, whole)
    assert grown.name == "grown"


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_as_all_at_once_whatever_the_events(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("append")
    event = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(0, 4))
    rows = data.draw(st.lists(event, min_size=2, max_size=25))
    text = data.draw(st.booleans())
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    if text:
        frame = frame.with_columns(pl.format("u{}", "user_id").alias("user_id"))
    cut = data.draw(st.integers(1, len(frame) - 1))
    whole = Dataset.write(folder / "whole", tabular.read(frame))
    Dataset.write(folder / "grown", tabular.read(frame[:cut]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset_append, "_refuse_repeated", lambda *_: None)
        assert_same_columns(append_events(folder / "grown", frame[cut:]), whole)


def test_files_and_ids_that_look_like_numbers(tmp_path: Path) -> None:
    rows = ["a7,007,5", "a1,sku,6", "3,12,7", "4.0,12,8"]
    paths = [tmp_path / name for name in ("whole.csv", "old.csv", "new.csv")]
    for path, some in zip(paths, (rows, rows[:2], rows[2:]), strict=True):
        path.write_text("\n".join(["user_id,item_id,timestamp", *some]))
    whole = Dataset.write(tmp_path / "whole", tabular.read(paths[0]))
    Dataset.write(tmp_path / "grown", tabular.read(paths[1]))
    assert_same_columns(append_events(tmp_path / "grown", paths[2]), whole)


def test_who_has_the_old_one_open_keeps_it(tmp_path: Path) -> None:
    old = Dataset.write(tmp_path / "data", read(EVENTS[:5]))
    items = old.events.item.copy()
    append_events(tmp_path / "data", EVENTS[5:], COLUMNS)
    np.testing.assert_array_equal(old.events.item, items)


def new_file(path: Path, *rows: str, header: str = "user_id,item_id,timestamp") -> Path:
    path.write_text("\n".join([header, *rows]))
    return path


def test_what_does_not_fit_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "data"
    plain = pl.DataFrame({"user_id": [1, 2], "item_id": [7, 8], "timestamp": [3, 4]})
    features = pl.DataFrame({"item_id": [7, 8], "size": [1, 2], "price": [0.5, 1.0]})
    written = Dataset.write(path, tabular.read(plain, item_features=features))
    events = new_file(tmp_path / "new.csv", "1,7,9", "3,9,10")
    for rows, message in (
        (["1,7,9", "bob,7,10"], "new.csv, line 3, column 'user_id': 'bob': the ids of this data set are whole numbers"),
        (["1,7,9", "01,7,10"], "new.csv, line 3, column 'user_id': '01': the ids of this data set are whole numbers"),
        (["1,7,soon"], "new.csv, line 2, column 'timestamp': 'soon'"),
        (["1,7,9", "1,9,9"], "new.csv, line 3, column 'item_id': 9: is new, and the data set has item features"),
        (["1,7,9", "1,7,9,9"], "new.csv, line 3, .*: 4 fields where the header has 3. Quote fields"),
        (["2,8,4"], "holds all 1 of the new events already"),
        ([], "no events: the table has no rows"),
    ):
        with pytest.raises(ValueError, match=message) as refusal:
            append_events(path, new_file(tmp_path / "new.csv", *rows))
        assert "skip" not in str(refusal.value)  # an append is whole or not at all
    new_file(events, "1,7,9", "3,9,10")
    side = tmp_path / "items.csv"
    for header, row, message in (
        ("item_id,size", "7,3", "items.csv, line 2, column 'item_id': '7': is in the data set already"),
        ("item_id,size", "9,big", "items.csv, line 2, column 'size': 'big': .* are whole numbers"),
        ("item_id,price", "9,big", "items.csv, line 2, column 'price': 'big': .* are numbers"),
        ("item_id,colour", "9,red", "items.csv: column 'colour': no such item feature in the data set"),
        ("item_id,size", "9,1\n9,2", "items.csv, line 3, column 'item_id': '9': duplicate key"),
        ("item_id,size", "9,1,1", "items.csv, line 2, .*: 3 fields where the header has 2. Quote fields"),
    ):
        with pytest.raises(ValueError, match=message) as refusal:
            append_events(path, events, item_features=new_file(side, row, header=header))
        assert "skip" not in str(refusal.value)
    with pytest.raises(ValueError, match="no user features"):
        append_events(path, events, user_features=side)
    with pytest.raises(ValueError, match="its events have no value: leave --value out"):
        append_events(path, events, ColumnMap(value="stars"))
    with pytest.raises(FileNotFoundError, match="no such directory"):
        append_events(tmp_path / "nowhere", events)
    assert_same_columns(Dataset.open(path), written)
    assert sorted(os.listdir(tmp_path)) == ["data", "items.csv", "new.csv"]


NOVEMBER = 1_700_000_000  # 14 November 2023, 22:13:20


@pytest.mark.parametrize(
    ("unit", "wanted"),
    [("seconds", NOVEMBER + 60), ("milliseconds", (NOVEMBER + 60) * 1000), ("hours", NOVEMBER // 3600)],
)
def test_dates_come_in_the_unit_of_the_data_set(tmp_path: Path, unit: str, wanted: int) -> None:
    old = pl.DataFrame({"user_id": [1], "item_id": [7], "timestamp": [wanted - wanted // 1000]})
    text = "2023-11-14 22:14:20"
    for name, times in (("text", pl.Series([text])), ("typed", pl.Series([text]).str.to_datetime())):
        Dataset.write(tmp_path / name, tabular.read(old, time_unit=unit))
        new = pl.DataFrame({"user_id": [2], "item_id": [7], "timestamp": times})
        assert append_events(tmp_path / name, new).events.time.tolist()[-1] == wanted


def test_files_of_others_in_the_directory_stay(tmp_path: Path) -> None:
    path = tmp_path / "data"
    old = pl.DataFrame({"user_id": [1, 1, 2], "item_id": [7, 8, 9], "timestamp": [NOVEMBER] * 3})
    Dataset.write(path, tabular.read(old))
    (path / "raw").mkdir()
    (path / "raw" / "log.csv").write_text("mine")
    (path / "notes.txt").write_text("mine")
    before = set(Dataset.open(path).header.files)
    append_events(path, old.with_columns(pl.col("timestamp") + 1))
    forget_user(path, 2)
    names = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    assert names == {*before, "header.json", "raw/log.csv", "notes.txt"}
    assert (path / "raw" / "log.csv").read_text() == (path / "notes.txt").read_text() == "mine"
    # A damaged one can be made again, in the same place.
    (path / "header.json").write_text("{")
    Dataset.write(path, tabular.read(old), overwrite=True).verify()
    assert (path / "raw" / "log.csv").is_file()
    assert (path / "notes.txt").is_file()


def test_the_order_within_a_second_is_kept(tmp_path: Path) -> None:
    old = pl.DataFrame({"user_id": [1, 1, 1], "item_id": [7, 8, 9], "timestamp": [NOVEMBER] * 3})
    Dataset.write(tmp_path / "data", tabular.read(old))
    new = pl.DataFrame({"user_id": [1, 1], "item_id": [9, 7], "timestamp": [NOVEMBER + 60.5, NOVEMBER + 60.25]})
    data = append_events(tmp_path / "data", new)
    assert data.items.external(data.events.item) == [7, 8, 9, 7, 9]


@pytest.mark.parametrize(
    ("unit", "old", "new", "message"),
    [
        (
            "seconds",
            NOVEMBER,
            NOVEMBER * 1000,
            "is the year 55,840: the data set counts seconds, and these seem to be m",
        ),
        ("milliseconds", NOVEMBER * 1000, NOVEMBER, "is the year 1970, and .* of 2023 .* seem to be seconds: convert"),
        ("minutes", NOVEMBER // 60, NOVEMBER // 3600, "is the year 1970, and .* of 2023 .* these seem to be hours"),
        ("days", NOVEMBER // 86_400, NOVEMBER // 3600, "is the year 3262: the data set counts days, .* to be hours"),
        ("seconds", 345_600, NOVEMBER, "is the year 2023, and the latest of the data set is 345602"),
        ("days", 30, NOVEMBER // 86_400, "is the year 2023, and the latest of the data set is 32"),
    ],
)
def test_times_of_another_unit_are_refused(tmp_path: Path, unit: str, old: int, new: int, message: str) -> None:
    def events(user: int, time: int) -> pl.DataFrame:
        return pl.DataFrame({"user_id": [user] * 3, "item_id": [7, 8, 9], "timestamp": [time, time + 1, time + 2]})

    written = Dataset.write(tmp_path / "data", tabular.read(events(1, old), time_unit=unit))
    with pytest.raises(ValueError, match=rf"polars table: column 'timestamp': {new + 1} {unit} .*{message}"):
        append_events(tmp_path / "data", events(2, new))
    assert Dataset.open(tmp_path / "data").hash == written.hash


@pytest.mark.parametrize(
    ("unit", "old", "new"),
    [
        ("seconds", 0, 4),
        ("seconds", 3, 250_000),
        ("seconds", 345_600, 40 * 86_400),
        ("days", 3_000, 5_000),
        ("days", 5_000, 1_500),
        ("days", NOVEMBER // 86_400, 7_500),
        ("seconds", NOVEMBER, NOVEMBER - 10**9),
    ],
)
def test_times_from_any_start_may_go_on(tmp_path: Path, unit: str, old: int, new: int) -> None:
    plain = pl.DataFrame({"user_id": [1, 2], "item_id": [7, 8], "timestamp": [old, old]})
    Dataset.write(tmp_path / "data", tabular.read(plain, time_unit=unit))
    assert append_events(tmp_path / "data", plain.with_columns(user_id=3, timestamp=new)).header.counts.events == 4


def test_whole_numbers_are_not_strings(tmp_path: Path) -> None:
    """In a text file 7 is the text that it is; in a typed column it may be "7", "007" or a new user."""
    old = pl.DataFrame({"user_id": ["7", "u8"], "item_id": [1, 2], "timestamp": [1, 2], "more": ["left", "out"]})
    written = Dataset.write(tmp_path / "data", tabular.read(old))
    new = pl.DataFrame({"user_id": [7, 9], "item_id": [1, 2], "timestamp": [3, 4], "extra": [0, 0]})
    new.write_parquet(tmp_path / "new.parquet")
    new.write_csv(tmp_path / "new.csv")
    columns = [
        (
            tmp_path / "new.parquet",
            r"new\.parquet: column 'user_id' has type Int64, the data set's ids are strings: cast",
        ),
        (new.cast({"user_id": pl.Float64}), "has type Float64, the data set's ids are strings"),
        (new.with_columns(user_id=pl.Series([7, 9], dtype=pl.Object)), "has integers, the data set's ids are strings"),
    ]
    for table, message in columns:
        with pytest.raises(ValueError, match=message):
            append_events(tmp_path / "data", table)
    assert Dataset.open(tmp_path / "data").hash == written.hash
    assert append_events(tmp_path / "data", tmp_path / "new.csv").users.ids.to_pylist() == ["7", "9", "u8"]


def test_new_features_of_another_form_are_refused(tmp_path: Path) -> None:
    old = pl.DataFrame({"user_id": [1, 2], "item_id": [1, 2], "timestamp": [1, 2]})
    items = pl.DataFrame({"item_id": [1, 2], "code": [7, 8], "tags": [["a"], ["a", "b"]]})
    Dataset.write(tmp_path / "data", tabular.read(old, item_features=items))
    new = pl.DataFrame({"user_id": [1], "item_id": [3], "timestamp": [3]})
    codes = tmp_path / "codes.csv"
    codes.write_text("item_id,code\n3,007\n")
    with pytest.raises(ValueError, match=r"codes\.csv, line 2, column 'code': '007': .* whole numbers"):
        append_events(tmp_path / "data", new, item_features=codes)
    with pytest.raises(ValueError, match=r"column 'tags': 'a': the data set's values of this feature are lists"):
        append_events(tmp_path / "data", new, item_features=pl.DataFrame({"item_id": [3], "tags": ["a"]}))
    codes.write_text("item_id,code\n3,7\n")
    grown = append_events(tmp_path / "data", new, item_features=codes).item_features.columns["code"]
    assert grown.values.tolist()[-3:] == [2, 3, 2]


def test_ids_of_19_digits(tmp_path: Path) -> None:
    first, largest = 1_800_000_000_000_000_001, 2**63 - 1
    old = pl.DataFrame({"user_id": [first, -first], "item_id": [1, 2], "timestamp": [1, 2]})
    Dataset.write(tmp_path / "data", tabular.read(old, item_features=pl.DataFrame({"item_id": [1, 2], "size": [1, 2]})))
    new = new_file(tmp_path / "new.csv", f"{first},{largest},3", f"{largest},{largest},4", f"{-first},1,5")
    side = new_file(tmp_path / "items.csv", f"{largest},3", header="item_id,size")
    grown = append_events(tmp_path / "data", new, item_features=side)
    assert grown.users.ids.to_pylist() == [-first, first, largest]
    assert grown.items.ids.to_pylist() == [1, 2, largest]
    for bad in (str(2**63), str(-(2**63) - 1), "9" * 40, "0" + str(first), f"{first}.0"):
        with pytest.raises(ValueError, match=rf"new.csv, line 3, column 'user_id': '{bad}': .* whole numbers below 2"):
            append_events(tmp_path / "data", new_file(new, "1,1,6", f"{bad},1,7"))


def test_impressions_alone_are_added_once(tmp_path: Path) -> None:
    """Shown and not clicked: such a file has no events by which it would be known again."""
    columns = ColumnMap(label="clicked")
    old = pl.DataFrame({"user_id": [1, 2], "item_id": [1, 3], "timestamp": [1, 3], "clicked": [1, 1]})
    Dataset.write(tmp_path / "data", tabular.read(old, columns=columns))
    shown = pl.DataFrame({"user_id": [1, 2], "item_id": [3, 1], "timestamp": [4, 5], "clicked": [0, 0]})
    first = append_events(tmp_path / "data", shown, columns)
    assert first.header.counts.impressions == 2
    with pytest.raises(AlreadyThereError, match="holds all 2 of the new impressions already"):
        append_events(tmp_path / "data", shown, columns)
    assert Dataset.open(tmp_path / "data").hash == first.hash
    more = pl.concat([shown, shown.with_columns(timestamp=pl.col("timestamp") + 9)])
    assert append_events(tmp_path / "data", more, columns).header.counts.impressions == 6


def test_datasets_that_cannot_grow(tmp_path: Path) -> None:
    Dataset.write(tmp_path / "filtered", read(EVENTS), min_item_events=2)
    with pytest.raises(ValueError, match="min_item_events=2: events that were left out then may count now"):
        append_events(tmp_path / "filtered", EVENTS, COLUMNS)
    without_times = tabular.read(EVENTS, columns=ColumnMap(timestamp=None))
    Dataset.write(tmp_path / "order", without_times)
    with pytest.raises(ValueError, match="has no times"):
        append_events(tmp_path / "order", EVENTS)
    Dataset.write(tmp_path / "stars", read(EVENTS))
    with pytest.raises(ValueError, match="its events have a value: say which column"):
        append_events(tmp_path / "stars", EVENTS, ColumnMap(part="given"))


def test_one_append_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second would start from the old events, and lose those of the first."""
    Dataset.write(tmp_path / "data", read(EVENTS[:4]))
    seen: list[str] = []
    write = Dataset.write

    def meanwhile(*arguments: object, **options: object) -> Dataset:
        with pytest.raises(ValueError, match="another append is under way"):
            append_events(tmp_path / "data", EVENTS[6:], COLUMNS)
        seen.append("refused")
        return write(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Dataset, "write", meanwhile)
    append_events(tmp_path / "data", EVENTS[4:6], COLUMNS)
    monkeypatch.undo()
    assert seen == ["refused"]
    append_events(tmp_path / "data", EVENTS[6:], COLUMNS)


DEADLY = """
import os, signal, sys
from pathlib import Path
from corral.data import atomic_directory
from corral.data.dataset_append import append_events
from corral.data.interactions import ColumnMap

path, events, function, call = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
owner = atomic_directory.DirectoryFiles if hasattr(atomic_directory.DirectoryFiles, function) else atomic_directory
original, calls = getattr(owner, function), 0


def deadly(*arguments, **options):
    global calls
    calls += 1
    if calls == call:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)


setattr(owner, function, deadly)
append_events(path, events, ColumnMap(value="stars", part="given", label="clicked"))
"""


@pytest.mark.parametrize(
    ("function", "call", "done"),
    [
        ("arrow", 1, False),
        ("array", 1, False),
        ("array", 4, False),
        ("text", 1, False),
        ("_exchange", 1, False),
        ("_fsync_directory", 4, True),
    ],
)
def test_a_killed_append_loses_nothing(tmp_path: Path, function: str, call: int, done: bool) -> None:
    """The data set is whole: the old one, or the new one. The command given again ends as if nothing had been."""
    path = tmp_path / "data"
    old, whole = Dataset.write(path, read(EVENTS[:5])), Dataset.write(tmp_path / "whole", read(EVENTS))
    EVENTS[5:].write_parquet(tmp_path / "new.parquet")
    command = [sys.executable, "-c", DEADLY, path, tmp_path / "new.parquet", function, str(call)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    left = Dataset.open(path)
    left.verify()
    assert left.hash == (whole if done else old).hash
    if done:
        with pytest.raises(ValueError, match="were they appended before"):
            append_events(path, EVENTS[5:], COLUMNS)
    else:
        assert_same_columns(append_events(path, EVENTS[5:], COLUMNS), whole)
        assert sorted(os.listdir(tmp_path)) == ["data", "new.parquet", "whole"]
