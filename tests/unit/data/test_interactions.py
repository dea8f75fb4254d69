"""Reading tables of events: every kind of file and frame, and every kind of bad input."""

import datetime
import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from corral.data.interactions import (
    ColumnMap,
    Interactions,
    SkippedRows,
    check_events,
    check_features,
    read_table,
)

EVENTS = pl.DataFrame({"user_id": [1, 1, 2], "item_id": ["a", "b", "a"], "timestamp": [5, 6, 7]})


def _csv(tmp_path: Path, text: str, name: str = "events.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def _frame(**columns: list) -> pl.DataFrame:
    return EVENTS.with_columns(pl.Series(name, values, strict=False) for name, values in columns.items())


# What may be read


@pytest.mark.parametrize("name", ["e.csv", "e.tsv", "e.csv.gz", "e.tsv.gz", "e.parquet", "e.arrow", "e.feather"])
def test_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if "sv" in name:
        text = EVENTS.write_csv(separator="\t" if "tsv" in name else ",").encode()
        path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    elif name == "e.parquet":
        EVENTS.write_parquet(path)
    else:
        EVENTS.write_ipc(path)
    read = read_table(path)
    assert read.events.equals(EVENTS)
    assert read.source == str(path)
    assert read.skipped == SkippedRows()


def test_frames() -> None:
    assert read_table(EVENTS).events.equals(EVENTS)
    assert read_table(EVENTS.lazy()).events.equals(EVENTS)
    assert read_table(EVENTS.to_arrow()).events.equals(EVENTS)
    with pytest.raises(ValueError, match="a dict is no table"):
        read_table({"user_id": [1]})


def test_pandas() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(EVENTS.to_dict(as_series=False))
    assert read_table(frame).events.equals(EVENTS)
    frame["user_id"] = [17850.0, 17850.0, 2.0]
    assert read_table(frame).events["user_id"].to_list() == [17850, 17850, 2]
    frame["item_id"] = ["a", 7, "b"]
    with pytest.raises(ValueError, match=r"pandas table, row 1 \(from 0\), column 'item_id': 7: ids of mixed type"):
        read_table(frame)
    assert read_table(frame, skip_bad_rows=True).events["item_id"].to_list() == ["a", "b"]


def test_column_map_and_value_and_part(tmp_path: Path) -> None:
    path = _csv(tmp_path, "when,who,what,stars,fold\n5,1,9,3.5,train\n6,1,8,4,TEST\n7,2,9,1,1\n")
    read = read_table(path, ColumnMap("who", "what", "when", value="stars", part="fold"))
    assert read.events.schema == {
        "user_id": pl.Int64,
        "item_id": pl.Int64,
        "timestamp": pl.Int64,
        "value": pl.Float32,
        "part": pl.Int8,
    }
    assert read.events.rows() == [(1, 9, 5, 3.5, 0), (1, 8, 6, 4.0, 2), (2, 9, 7, 1.0, 1)]


def test_labels_become_impressions(tmp_path: Path) -> None:
    path = _csv(tmp_path, "user_id,item_id,timestamp,click\n1,9,5,1\n1,8,5,0\n2,8,6,1\n")
    read = read_table(path, ColumnMap(label="click"))
    assert read.events.rows() == [(1, 9, 5), (2, 8, 6)]
    assert read.impressions is not None
    assert read.impressions.rows() == [(1, 8, 5)]


def test_without_times_the_order_is_the_time() -> None:
    read = read_table(EVENTS, ColumnMap(timestamp=None))
    assert read.time_unit == "order"
    assert read.events["timestamp"].to_list() == [0, 1, 2]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["3", "12", "3"], [3, 12, 3]),
        (["3.0", "12.0", "3.0"], [3, 12, 3]),
        (["-3", "0", "12"], [-3, 0, 12]),
        (["007", "7", "8"], ["007", "7", "8"]),
        (["٣", "7", "8"], ["٣", "7", "8"]),  # digits of another script are no int64
        (["85123A", "22423", "POST"], ["85123A", "22423", "POST"]),
        (["9" * 25, "1", "2"], ["9" * 25, "1", "2"]),
    ],
)
def test_ids_of_text_files(tmp_path: Path, ids: list[str], expected: list) -> None:
    text = "user_id,item_id,timestamp\n" + "".join(f"{value},1,1\n" for value in ids)
    assert read_table(_csv(tmp_path, text)).events["user_id"].to_list() == expected


@pytest.mark.parametrize(
    "ids",
    [[17850.0, 2.0, 3.0], pl.Series([17850, 2, 3], dtype=pl.UInt16), np.array([17850, 2, 3], dtype=np.int32)],
)
def test_ids_become_int64(ids: list) -> None:
    read = read_table(EVENTS.with_columns(pl.Series("user_id", ids)))
    assert read.events["user_id"].dtype == pl.Int64
    assert read.events["user_id"].to_list() == [17850, 2, 3]


def test_string_ids_of_frames_stay_strings() -> None:
    read = read_table(EVENTS.with_columns(pl.Series("item_id", ["1", "2", "日本"], dtype=pl.Categorical)))
    assert read.events["item_id"].to_list() == ["1", "2", "日本"]


UTC = datetime.UTC
NOON = datetime.datetime(2011, 12, 9, 12)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([5.0, 6.9, 7.2], [5, 6, 7]),
        (["5", "6.9", "7e0"], [5, 6, 7]),
        ([NOON] * 3, [1323432000] * 3),
        ([NOON.replace(tzinfo=UTC)] * 3, [1323432000] * 3),
        ([NOON.date()] * 3, [1323388800] * 3),
        (["2011-12-09 12:00:00"] * 3, [1323432000] * 3),
        (["2011-12-09"] * 3, [1323388800] * 3),
        (pl.Series([5, 6, 7], dtype=pl.UInt32), [5, 6, 7]),
    ],
)
def test_times(times: list, expected: list[int]) -> None:
    read = read_table(EVENTS.with_columns(pl.Series("timestamp", times)))
    assert read.events["timestamp"].to_list() == expected
    assert read.events["timestamp"].dtype == pl.Int64


@pytest.mark.parametrize(
    "times",
    [
        [12.9, 12.25, 12.0, 11.5],
        ["12.9", "12.25", "12", "11.5"],
        pl.Series(["12.9", "12.25", "12", "11.5"]).str.to_decimal(scale=2),
        [datetime.datetime(1970, 1, 1, 0, 0, second, micro) for second, micro in ((12, 9), (12, 8), (12, 0), (11, 1))],
        [f"1970-01-01 00:00:{text}" for text in ("12.9", "12.25", "12.0", "11.5")],
    ],
)
def test_the_order_within_a_second_is_kept(times: list) -> None:
    """Exports are often the newest first; what is rounded down still says what came before what."""
    rows = pl.DataFrame({"user_id": [1] * 4, "item_id": [4, 3, 2, 1], "timestamp": times})
    read = read_table(rows)
    assert read.events["item_id"].to_list() == [1, 2, 3, 4]
    assert read.events["timestamp"].to_list() == [11, 12, 12, 12]
    bad = pl.concat([rows.with_columns(pl.col("timestamp").shuffle(seed=0)), rows.with_columns(timestamp=None)])
    skipped = read_table(bad, skip_bad_rows=True)
    assert skipped.skipped.count == 4
    assert len(skipped.events) == 4


def test_encoding(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_bytes("user_id,item_id,timestamp\nJosé,1,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"e\.csv: .*utf-8.*encoding"):
        read_table(path)
    assert read_table(path, encoding="latin-1").events["user_id"].to_list() == ["José"]
    path.write_bytes("user_id,item_id,timestamp\nJosé,1,1\n".encode("utf-8-sig"))
    assert read_table(path).events["user_id"].to_list() == ["José"]


def test_features_of_files(tmp_path: Path) -> None:
    events = _csv(tmp_path, "who,what,timestamp\n1,a,5\n2,7,6\n")
    items = _csv(tmp_path, "what,title,year,price\n7,Seven,1995,1.5\nz,Zed,,\n", "items.csv")
    users = pl.DataFrame({"user_id": [1, 3], "tags": [["x"], ["y", "z"]]})
    read = read_table(
        events, ColumnMap("who", "what"), item_features=items, user_features=users, text_columns=["title"]
    )
    assert read.item_features is not None
    assert read.item_features.schema == {
        "item_id": pl.String,
        "title": pl.String,
        "year": pl.Int64,
        "price": pl.Float64,
    }
    assert read.user_features is not None
    assert read.text_columns == {"title"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["701", "2134", "-5", ""], [701, 2134, -5, None]),
        (["02134", "2134", "701"], ["02134", "2134", "701"]),
        (["02134", "2.5", "701"], ["02134", "2.5", "701"]),
        (["10000012345678901234", "10000012345678901235"], ["10000012345678901234", "10000012345678901235"]),
        (["1234567890123456", "1.5"], ["1234567890123456", "1.5"]),
        (["1234567890123456", "1"], [1234567890123456, 1]),
        (["0.5", "1e3", "0", "123456789012345"], [0.5, 1000.0, 0.0, 123456789012345.0]),
        (["5", "NA", "7", "N/A"], [5, None, 7, None]),
        (["0.5", "nan", "null", "None"], [0.5, None, None, None]),
        (["NA", "DE", "7", "1"], ["NA", "DE", "7", "1"]),
        (["007", "NA"], ["007", "NA"]),
        (["NA", "null"], ["NA", "null"]),
    ],
)
def test_codes_of_feature_files_stay_text(tmp_path: Path, values: list[str], expected: list) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id,code\n" + "".join(f"{item},{value}\n" for item, value in enumerate(values, 7)))
    features = read_table(EVENTS.with_columns(item_id=7), item_features=path).item_features
    assert features is not None
    assert features["code"].to_list() == expected
    assert [type(one) for one in features["code"]] == [type(one) for one in expected]


def test_007_is_not_user_7() -> None:
    features = pl.DataFrame({"user_id": ["007", "7", "+7", "A1"], "age": [1.0, 2.0, 3.0, 4.0]})
    read = Interactions.of(EVENTS.with_columns(user_id=7), user_features=features, source="here")
    assert read.user_features is not None
    assert read.user_features.rows() == [(7, 2.0)]
    assert read.unfit_features == (3, 0)


def test_integer_keys_of_features_meet_string_ids_of_events() -> None:
    items = pl.DataFrame({"item_id": [1, 2], "x": ["p", "q"]})
    events = EVENTS.with_columns(item_id=pl.Series(["1", "b", "2"]))
    assert read_table(events, item_features=items).item_features["item_id"].to_list() == ["1", "2"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("ids", "given"), [([100, 101, 102], ["SKU100", "SKU101"]), (["a", "b", "c"], ["A", "B"]), ([1, 2, 3], [7, 8])]
)
@pytest.mark.parametrize("key", ["user_id", "item_id"])
def test_features_of_nobody_are_refused(tmp_path: Path, key: str, ids: list, given: list) -> None:
    events = EVENTS.with_columns(pl.Series(key, ids))
    features = pl.DataFrame({key: given, "x": ["p", "q"]})
    features.write_csv(tmp_path / "features.csv")
    events.write_csv(tmp_path / "events.csv")
    side = key[:4]
    message = rf"\({side} features\): none of the 2 rows is of an? {side} .*{given[0]!r} in the .* {ids[0]!r} in the ev"
    for log, table in ((events, features), (tmp_path / "events.csv", tmp_path / "features.csv")):
        with pytest.raises(ValueError, match=message):
            read_table(log, **{f"{side}_features": table})
    empty = read_table(events, **{f"{side}_features": features.clear()})  # an export of nothing says nothing
    assert empty.events.equals(events)


def test_features_of_some_are_counted() -> None:
    items = pl.DataFrame({"item_id": ["2", "x", "9", "02"], "x": ["p", "q", "r", "s"]})
    read = read_table(EVENTS.with_columns(item_id=pl.Series([1, 2, 3])), item_features=items)
    assert read.item_features is not None
    assert read.item_features.rows() == [(2, "p"), (9, "r")]
    assert read.unfit_features == (0, 2)


# What may not


def test_missing_column_names_the_nearest(tmp_path: Path) -> None:
    for path in (
        _csv(tmp_path, "userId,movieId,timestamp\n1,2,3\n"),
        tmp_path / "e.parquet",
    ):
        if path.suffix == ".parquet":
            pl.DataFrame({"userId": [1], "movieId": [2], "timestamp": [3]}).write_parquet(path)
        with pytest.raises(ValueError, match=r"no column 'user_id'; .*The nearest is 'userId'.*ColumnMap"):
            read_table(path)
        with pytest.raises(ValueError, match=r"no column 'movie'; .*The nearest is 'movieId'"):
            read_table(path, ColumnMap("userId", "movie"))


@pytest.mark.parametrize(
    ("line", "column", "reason"),
    [
        (",9,5", "user_id", "None: missing id"),
        ("2,,5", "item_id", "None: missing id"),
        ("nan,9,5", "user_id", "'nan': missing id"),
        ("2,9,", "timestamp", "None: missing time"),
        ("2,9", "timestamp", "None: missing time"),
        ("2,9,noon", "timestamp", "'noon': not a time"),
        ("2,9,NaN", "timestamp", "'NaN': not a time"),
        ("2,9,inf", "timestamp", "'inf': not a time"),
        ("2,9,-5", "timestamp", "'-5': negative time"),
        ("2,9,5,5", "timestamp", r"\['2', '9', '5', '5'\]: 4 fields where the header has 3"),
    ],
)
def test_bad_lines(tmp_path: Path, line: str, column: str, reason: str) -> None:
    path = _csv(tmp_path, f"user_id,item_id,timestamp\n1,9,4\n\n{line}\n3,9,6\n")
    with pytest.raises(ValueError, match=rf"events\.csv, line 4, column '{column}': {reason}.*skip_bad_rows"):
        read_table(path)
    read = read_table(path, skip_bad_rows=True)
    assert read.events.rows() == [(1, 9, 4), (3, 9, 6)]
    assert read.skipped.count == 1
    skipped = read.skipped.examples[0]
    assert (skipped.file, skipped.row, skipped.column) == (str(path), 4, column)
    assert "1 bad rows skipped" in str(read.skipped)


def test_lines_are_counted_over_quoted_line_ends(tmp_path: Path) -> None:
    path = _csv(tmp_path, 'user_id,item_id,timestamp\n1,"x\ny",4\n2,z,bad\n')
    with pytest.raises(ValueError, match="line 4, column 'timestamp': 'bad'"):
        read_table(path)


def test_long_text_hides_no_bad_line(tmp_path: Path) -> None:
    path = _csv(tmp_path, f"user_id,item_id,timestamp,said\n1,x,4,{'a' * 200_000}\n2,z,bad,b\n")
    with pytest.raises(ValueError, match="line 3, column 'timestamp': 'bad'"):
        read_table(path)


def test_mapped_names_are_the_ones_in_messages(tmp_path: Path) -> None:
    path = _csv(tmp_path, "who,what,when\n1,2,x\n")
    with pytest.raises(ValueError, match="line 2, column 'when': 'x'"):
        read_table(path, ColumnMap("who", "what", "when"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"user_id": [1.5, 2.0, 3.0]},
            r"row 0 \(from 0\), column 'user_id': 1\.5: ids must be integers or strings",
        ),
        ({"user_id": [1.0, float("nan"), 3.0]}, r"row 1 .*column 'user_id': nan: missing id"),
        ({"user_id": [1.0, 2.0, 2.0**60]}, r"row 2 .*whole and below 2\^53"),
        ({"user_id": [1, None, 3]}, r"row 1 .*column 'user_id': None: missing id"),
        ({"item_id": ["a", "", "b"]}, r"row 1 .*column 'item_id': '': missing id"),
        ({"timestamp": [1.0, 2.0, float("nan")]}, r"row 2 .*column 'timestamp': nan: not a finite time"),
        ({"timestamp": [1.0, float("inf"), 2.0]}, r"row 1 .*column 'timestamp': inf: not a finite time"),
        ({"timestamp": [1.0, -0.5, 2.0]}, r"row 1 .*column 'timestamp': -0\.5: negative time"),
        ({"timestamp": [1, None, 2]}, r"row 1 .*column 'timestamp': None: missing time"),
        ({"timestamp": [NOON, NOON.replace(year=1960), NOON]}, r"row 1 .*1960.*negative time"),
        ({"value": [1.0, float("inf"), 2.0]}, r"row 1 .*column 'value': inf: not a finite number"),
        ({"value": ["1", "two", "3"]}, r"row 1 .*column 'value': 'two': not a finite number"),
        ({"part": ["train", "tset", "test"]}, r"row 1 .*column 'part': 'tset': not a part"),
        ({"part": [0, 1, 3]}, r"row 2 .*column 'part': 3: not a part"),
        ({"label": [0, 1, 5]}, r"row 2 .*column 'label': 5: not a label"),
    ],
)
def test_bad_values_of_frames(columns: dict[str, list], message: str) -> None:
    frame = _frame(**columns)
    with pytest.raises(ValueError, match=r"here, " + message):
        check_events(frame, source="here")
    kept, skipped = check_events(frame, source="here", skip_bad_rows=True)
    assert len(kept) == 2
    assert skipped.count == 1
    assert not kept.null_count().row(0).count(1)


@pytest.mark.parametrize(
    ("values", "main"), [([1, "a", 2], [1, 2]), (["x", 5, "y"], ["x", "y"]), ([1.0, 2, 0.5], [1, 2])]
)
def test_ids_of_mixed_type(values: list, main: list) -> None:
    frame = EVENTS.with_columns(pl.Series("item_id", values, dtype=pl.Object))
    with pytest.raises(ValueError, match=r"column 'item_id': .*: ids of mixed type.*make all of them strings"):
        check_events(frame, source="here")
    assert check_events(frame, source="here", skip_bad_rows=True)[0]["item_id"].to_list() == main


def test_large_unsigned_ids() -> None:
    frame = EVENTS.with_columns(pl.Series("user_id", [1, 2, 2**64 - 1], dtype=pl.UInt64))
    with pytest.raises(ValueError, match=r"row 2 .*does not fit into int64"):
        check_events(frame, source="here")


@pytest.mark.parametrize("values", [[1, 2**63, 2], [1, 1e30, 2], [1, -(2**63) - 1, 2]])
def test_objects_that_int64_does_not_hold(values: list) -> None:
    frame = EVENTS.with_columns(pl.Series("user_id", values, dtype=pl.Object))
    with pytest.raises(ValueError, match=r"row 1 .*column 'user_id': .*: does not fit into int64; use strings"):
        read_table(frame)
    read = read_table(frame, skip_bad_rows=True)
    assert (read.skipped.count, read.events["user_id"].to_list()) == (1, [1, 2])


@pytest.mark.parametrize(("dtype", "bits"), [(pl.Float32, 24), (pl.Float64, 53)])
def test_floats_that_are_not_exact_are_no_ids(dtype: pl.DataType, bits: int) -> None:
    frame = EVENTS.with_columns(pl.Series("user_id", [1, 2**bits + 1, 2**bits - 1]).cast(dtype))
    with pytest.raises(ValueError, match=rf"row 1 .*column 'user_id': .*whole and below 2\^{bits}"):
        read_table(frame)
    assert read_table(frame, skip_bad_rows=True).events["user_id"].to_list() == [1, 2**bits - 1]


def test_frames_with_a_column_twice() -> None:
    pandas = pytest.importorskip("pandas")
    names = ["user_id", "item_id", "timestamp", "timestamp"]
    arrow = pa.table([pa.array([1])] * 4, names=names)
    for table, kind in ((pandas.DataFrame([[1, 2, 3, 4]], columns=names), "pandas"), (arrow, "pyarrow")):
        with pytest.raises(ValueError, match=f"{kind} table: column 'timestamp' appears twice"):
            read_table(table)


@pytest.mark.parametrize("column", ["user_id", "timestamp"])
def test_types_that_are_neither(column: str) -> None:
    with pytest.raises(ValueError, match=f"here: column '{column}' has type .*cast it"):
        check_events(EVENTS.with_columns(pl.Series(column, [[1], [2], [3]])), source="here")


def test_line_offsets_of_other_readers() -> None:
    frame = _frame(timestamp=[1, -1, -2])
    with pytest.raises(ValueError, match=r"r\.dat, line 3, column 'timestamp': -1: negative .* 2 rows are bad in all"):
        check_events(frame, source="r.dat", line_offset=2)
    with pytest.raises(ValueError, match="line 40"):
        check_events(frame, source="r.dat", line_offset=[10, 40, 70].__getitem__)


def test_skipped_rows_add_up_and_keep_the_first() -> None:
    frame = pl.concat([EVENTS] * 20).with_columns(timestamp=pl.int_range(60) - 30)
    kept, skipped = check_events(frame, source="a", skip_bad_rows=True)
    assert len(kept) == 30
    assert skipped.count == 30
    assert [example.row for example in skipped.examples] == list(range(10))
    assert (skipped + skipped).count == 60
    assert len((skipped + skipped).examples) == 10


def test_all_rows_bad() -> None:
    with pytest.raises(ValueError, match="no events left: all 3 rows are bad"):
        check_events(_frame(timestamp=[-1, -1, -1]), source="here", skip_bad_rows=True)


@pytest.mark.parametrize("name", ["e.csv", "e.parquet", "e.csv.gz"])
def test_empty_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.touch()
    with pytest.raises(ValueError, match=rf"{name}: the file is empty"):
        read_table(path)


def test_files_without_rows(tmp_path: Path) -> None:
    EVENTS.clear().write_parquet(tmp_path / "e.parquet")
    for path in (_csv(tmp_path, "user_id,item_id,timestamp\n"), tmp_path / "e.parquet"):
        with pytest.raises(ValueError, match="no events"):
            read_table(path)
    with pytest.raises(ValueError, match="no header line"):
        read_table(_csv(tmp_path, "\n\n"))


def test_header_with_a_column_twice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 1: column 'user_id' appears twice"):
        read_table(_csv(tmp_path, "user_id,user_id,item_id\n1,1,1\n"))


def test_no_such_file_and_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv: no such file"):
        read_table(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match=r"unknown kind of file '\.xlsx'; known are \.csv"):
        read_table(_csv(tmp_path, "x", "events.xlsx"))


@pytest.mark.parametrize("name", ["e.parquet", "e.arrow", "e.csv.gz"])
@pytest.mark.parametrize("damage", ["truncated", "garbage"])
def test_damaged_files(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / name
    frame = pl.concat([EVENTS] * 1000)
    if name == "e.csv.gz":
        path.write_bytes(gzip.compress(frame.write_csv().encode()))
    else:
        (frame.write_parquet if name == "e.parquet" else frame.write_ipc)(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"\x00garbage" * 50)
    with pytest.raises(ValueError, match=rf"{name.replace('.', '[.]')}: damaged or truncated"):
        read_table(path)


def test_duplicate_keys_of_features(tmp_path: Path) -> None:
    items = _csv(tmp_path, "item_id,x\na,1\nb,2\na,3\n", "items.csv")
    with pytest.raises(ValueError, match=r"items\.csv, line 4, column 'item_id': 'a': duplicate key"):
        read_table(EVENTS, item_features=items)
    read = read_table(EVENTS, item_features=items, skip_bad_rows=True)
    assert read.item_features is not None
    assert read.item_features.rows() == [("a", 1), ("b", 2)]
    assert read.skipped.count == 1
    with pytest.raises(ValueError, match="no column 'item_id'"):
        check_features(pl.DataFrame({"x": [1]}), "item_id", source="here")
    with pytest.raises(ValueError, match="None: missing id"):
        check_features(pl.DataFrame({"item_id": [1, None], "x": [1, 2]}), "item_id", source="here")


def test_interactions_refuse_unchecked_frames() -> None:
    with pytest.raises(ValueError, match=r"column 'timestamp' is Float64 .* Interactions\.of"):
        Interactions(EVENTS.with_columns(timestamp=pl.Series([1.0, 2.0, 3.0])))
    with pytest.raises(ValueError, match="'user_id' is Int64 with 1 nulls"):
        Interactions(_frame(user_id=[1, None, 2]))
    with pytest.raises(ValueError, match="no column 'timestamp'"):
        Interactions(EVENTS.drop("timestamp"))
    with pytest.raises(ValueError, match="time_unit 'years'"):
        Interactions(EVENTS, time_unit="years")
    with pytest.raises(ValueError, match="unique"):
        Interactions(EVENTS, user_features=pl.DataFrame({"user_id": [1, 1]}))
    with pytest.raises(ValueError, match="give both the same type"):
        Interactions(EVENTS, user_features=pl.DataFrame({"user_id": ["1"]}))


def test_impressions_are_checked_too() -> None:
    with pytest.raises(ValueError, match=r"log \(impressions\), row 1"):
        Interactions.of(EVENTS, impressions=_frame(timestamp=[1, -1, 1]), source="log")
    read = Interactions.of(EVENTS, impressions=_frame(item_id=[1, 2, 3]), source="log")
    assert read.impressions is not None
    assert read.impressions["item_id"].to_list() == ["1", "2", "3"]


def test_arrow_batches() -> None:
    batch = EVENTS.to_arrow().to_batches()[0]
    assert isinstance(batch, pa.RecordBatch)
    assert read_table(batch).events.equals(EVENTS)


def test_what_would_be_left_aside_is_refused() -> None:
    with pytest.raises(ValueError, match="event_type"):
        read_table(EVENTS, event_weights={"view": 0.0})
    features = pl.DataFrame({"item_id": ["a", "b"], "title": ["A", "B"]})
    with pytest.raises(ValueError, match=r"'titel'.*'title'"):
        read_table(EVENTS, item_features=features, text_columns=["titel"])
    assert read_table(EVENTS, item_features=features, text_columns=iter(["title"])).text_columns == {"title"}


def test_columns_may_be_named_by_a_dict() -> None:
    renamed = EVENTS.rename({"user_id": "who"})
    assert read_table(renamed, {"user": "who"}).events.equals(read_table(EVENTS).events)


def test_unknown_names_of_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown \\['users'\\]"):
        read_table(EVENTS, {"users": "who"})
