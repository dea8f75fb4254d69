"""Times from outside in a data set's unit: dates are brought to it, times of another unit are refused."""

from __future__ import annotations

import datetime

import polars as pl
import pytest

from corral.data.event_check import check_events
from corral.data.interactions import ColumnMap, Interactions, read_table

NOON = datetime.datetime(2011, 12, 9, 12, 0, 0, 250_000)
SECONDS = 1_323_432_000


def events(times: object) -> pl.DataFrame:
    return pl.DataFrame({"user_id": [1, 2, 3], "item_id": [7, 8, 9], "timestamp": times})


@pytest.mark.parametrize(
    ("unit", "noon", "midnight"),
    [
        ("seconds", SECONDS, SECONDS - 43_200),
        ("milliseconds", SECONDS * 1000 + 250, (SECONDS - 43_200) * 1000),
        ("minutes", SECONDS // 60, (SECONDS - 43_200) // 60),
        ("hours", SECONDS // 3600, (SECONDS - 43_200) // 3600),
        ("days", SECONDS // 86_400, SECONDS // 86_400),
    ],
)
def test_dates_are_brought_to_the_unit(unit: str, noon: int, midnight: int) -> None:
    typed = pl.Series([NOON] * 3)
    for times in (
        typed,
        typed.cast(pl.Datetime("ms")),
        typed.cast(pl.Datetime("ns")),
        typed.dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Berlin"),
        pl.Series(["2011-12-09 12:00:00.250"] * 3),
        pl.Series(["2011-12-09T13:00:00.250+01:00"] * 3),
        pl.Series([NOON] * 3, dtype=pl.Object),
    ):
        assert read_table(events(times), time_unit=unit).events["timestamp"].to_list() == [noon] * 3
        checked = Interactions.of(events(times), impressions=events(times), time_unit=unit, source="here")
        assert checked.events["timestamp"].to_list() == [noon] * 3
        assert checked.impressions is not None
        assert checked.impressions["timestamp"].to_list() == [noon] * 3
    for times in (typed.dt.date(), pl.Series(["2011-12-09"] * 3)):
        assert read_table(events(times), time_unit=unit).events["timestamp"].to_list() == [midnight] * 3


def test_dates_where_there_are_no_times() -> None:
    with pytest.raises(ValueError, match=r"column 'timestamp' holds dates, and time_unit 'order' .*: give one of seco"):
        read_table(events([NOON] * 3), time_unit="order")
    assert read_table(events([10**12] * 3), time_unit="order").time_unit == "order"
    with pytest.raises(ValueError, match="time_unit 'years': expected one of"):
        read_table(events([1, 2, 3]), time_unit="years")


@pytest.mark.parametrize(
    ("unit", "time", "message"),
    [
        (
            "seconds",
            1_700_000_000_000,
            r'year 55,840: say --time-unit milliseconds \(in Python time_unit="milliseconds"',
        ),
        (
            "seconds",
            1_700_000_000_000_000,
            "seem to be microseconds: divide them by 1,000 and say --time-unit millisec",
        ),
        ("days", 1_700_000_000_000_000_000, "seem to be nanoseconds"),
        ("milliseconds", 1_700_000_000_000_000_000, "seem to be nanoseconds: divide them by 1,000,000 and say "),
        ("minutes", 1_700_000_000, "year 5202: say --time-unit seconds"),
        ("hours", 28_333_333, "year 5202: say --time-unit minutes"),
        ("days", 472_222, "year 3262: say --time-unit hours"),
        ("seconds", 20_231_114_221_320, "give seconds since 1970, or dates such as .*--timestamp none"),
    ],
)
def test_numbers_of_another_unit_are_refused(unit: str, time: int, message: str) -> None:
    names = ColumnMap(timestamp="when")
    for times in ([time, time, time + 1], [0, time, time + 1], [float(time)] * 3, [str(time)] * 3):
        for skip_bad_rows in (False, True):
            with pytest.raises(ValueError, match=rf"polars table: column 'when': {time} {unit} is the .*{message}"):
                read_table(
                    events(times).rename({"timestamp": "when"}), names, time_unit=unit, skip_bad_rows=skip_bad_rows
                )


@pytest.mark.parametrize("times", [[0, 1, 2], [5, 10**9, 10**10], [1_700_000_000] * 3])
def test_small_numbers_count_from_any_start(times: list[int]) -> None:
    checked, _ = check_events(events(times), source="here")
    assert checked["timestamp"].to_list() == times


@pytest.mark.parametrize("date", ["03/04/2011", "1/5/2011 8:26", "28.02.2011", "01-05-2011", "3/4/11"])
@pytest.mark.parametrize("skip_bad_rows", [False, True])
def test_dates_with_the_year_last_are_refused(date: str, skip_bad_rows: bool) -> None:
    for times in ([date] * 3, [date, date, "2011-12-09"], ["0", date, date]):
        with pytest.raises(ValueError, match=rf"column 'timestamp': '{date}': which number is the day .*as 2011-12-31"):
            read_table(events(times), skip_bad_rows=skip_bad_rows)


def test_one_date_with_the_year_last_is_a_bad_row() -> None:
    times = ["2011-12-09", "03/04/2011", "2011/12/09"]
    with pytest.raises(ValueError, match=r"row 1 .*'03/04/2011': which number is the day"):
        read_table(events(times))
    read = read_table(events(times), skip_bad_rows=True)
    assert (read.skipped.count, read.events["user_id"].to_list()) == (1, [1, 3])


def test_dates_of_many_forms_with_the_year_first() -> None:
    times = ["2011-12-09 12:00:00", "2011-12-09T12:00Z", "2011/12/09 13:00:00.25+01:00", None]
    for rows in ([0, 1, 2], [1, 0, 2], [2, 1, 0]):
        read = read_table(events([times[row] for row in rows]))
        assert read.events["timestamp"].to_list() == [SECONDS] * 3
        half = read_table(events([times[rows[0]], None, times[rows[2]]]), skip_bad_rows=True)
        assert half.events["timestamp"].to_list() == [SECONDS] * 2


@pytest.mark.parametrize(
    ("times", "row", "message"),
    [
        (["2011-12-09", "0", "2011-12-09"], 1, r"'0': not a time: expected a date such as"),
        (["7", "8", "2011-12-09"], 2, r"'2011-12-09': not a time: expected a number, as most are"),
        (["noon", "7", "2011-12-09"], 0, r"'noon': not a time"),
    ],
)
def test_text_is_what_most_of_it_is(times: list[str], row: int, message: str) -> None:
    with pytest.raises(ValueError, match=rf"row {row} .*{message}"):
        read_table(events(times))
    kept = read_table(events(times), skip_bad_rows=True)
    assert row + 1 not in kept.events["user_id"].to_list()
    if "noon" not in times:
        assert kept.skipped.count == 1


FAR = datetime.datetime(9999, 12, 31)


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        ([1_600_000_000, 1_700_000_000_000, 1_600_000_001], "seconds"),
        ([1, 2**63 - 1, 2], "milliseconds"),
        ([1.0, 4e10, 2.0], "seconds"),
        (["1", "99999999999", "2"], "seconds"),
        ([NOON, FAR, NOON], "days"),
        (["2011-12-09", "9999-12-31", "2011-12-09"], "milliseconds"),
        ([NOON.date(), FAR.date(), NOON.date()], "seconds"),
    ],
)
def test_some_far_times_are_bad_rows(times: list, unit: str) -> None:
    with pytest.raises(ValueError, match=rf"row 1 .*in {unit} since 1970 this is the year 3000 or later"):
        read_table(events(times), time_unit=unit)
    read = read_table(events(times), time_unit=unit, skip_bad_rows=True)
    assert (read.skipped.count, read.events["user_id"].to_list()) == (1, [1, 3])


def test_float32_does_not_tell_seconds_apart() -> None:
    times = pl.Series([1.0, 2.0**24 + 1, 2.0**24 - 1], dtype=pl.Float32)
    with pytest.raises(
        ValueError, match=r"row 1 .*'timestamp': 16777216.0: Float32 holds no exact times from 16,777,216 on"
    ):
        read_table(events(times))
    assert read_table(events(times), skip_bad_rows=True).events["timestamp"].to_list() == [1, 2**24 - 1]
