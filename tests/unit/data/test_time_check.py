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


@pytest.mark.parametrize("times", [[0, 1, 2], [5, 10**9, 10**10], [1, 2, 10**13], [1_700_000_000] * 3])
def test_small_numbers_count_from_any_start(times: list[int]) -> None:
    checked, _ = check_events(events(times), source="here")
    assert checked["timestamp"].to_list() == times
