"""check_time: times from outside as whole numbers of a data set's unit; times of another unit are refused."""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from corral.data.id_check import exact_limit, is_missing
from corral.data.skipped_rows import Problems
from corral.data.time_units import SECONDS, require_unit

# Nobody's log is of these years: what reads so counts another unit, or from a start of its own.
LAST_YEAR, FIRST_YEAR = 3000, 1980
# Where a unit is guessed from a time. The quotient of the ends of 1990 to 2100 is below that of any two units.
_LIKELY_YEARS = (1990, 2100)
_FINER = {"microseconds": 1e-6, "nanoseconds": 1e-9}
# Text that may be a date: the year comes first. Where it comes last, 03/04/2011 is the fourth of March to some.
_YEAR_FIRST = r"^\s*\d{4}[-/]\d"
_ZONE = r":\d.*(Z|[+-]\d{2}:?(\d{2})?)\s*$"
_YEAR_LAST = r"^\s*\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}\b"
_UNCLEAR = "which number is the day and which the month cannot be told: write dates as 2011-12-31"
# Further back, or on, than a log that counts from a start of its own may go between two files.
_FAR_BACK, FAR_ON = 20, 100


def check_time(
    values: pl.Series, problems: Problems, time_unit: str, fixed_unit: bool = False
) -> tuple[pl.Series, pl.Series | None]:
    """Times as Int64 >= 0 in ``time_unit``, null where bad (and then noted in ``problems``); and what was rounded.

    Whole numbers stay as they are, fractions are rounded down, dates (UTC where they name no zone) become what
    passed since 1970, rounded down to whole units. Text is what most of its cells are, numbers or dates (year first).
    Times of the year 3000 or later are bad where most are not: another unit, or a mark for "never".

    Args:
        values: numbers, dates, or text of either.
        problems: where bad rows are noted.
        time_unit: one of ``TIME_UNITS``.
        fixed_unit: it is that of a data set which is there already, and cannot be chosen.

    Returns:
        The times; and, where any was rounded down, what tells the order within a unit: all of them as they were given.

    Raises:
        ValueError: the column is neither; dates where the unit is "order"; most dates have the year last; or most of
            the numbers are, in that unit, of the year 3000 or later.
    """
    require_unit(time_unit)
    dtype = values.dtype
    if dtype == pl.Object:
        values = pl.Series(values.name, [None if is_missing(v) else str(v) for v in values], dtype=pl.String)
        dtype = values.dtype
    reason = "not a time: expected a number"
    dates = fractions = None
    if dtype.is_integer():
        times = values if dtype == pl.Int64 else values.cast(pl.Int64, strict=False)
    elif dtype.is_float() or dtype.is_decimal():
        times, fractions = _floor(values), values.cast(pl.Float64)
        reason = "not a finite time"
        limit = exact_limit(dtype)
        inexact = times.is_not_null() & (times.abs() >= limit)
        problems.add(inexact, "timestamp", values, f"{dtype} holds no exact times from {limit:,} on: give integers")
    elif isinstance(dtype, pl.Datetime | pl.Date):
        dates = values.cast(pl.Datetime("us")) if dtype == pl.Date else values
    elif dtype == pl.String:
        times, fractions, dates, reason = _of_text(values, problems)
    elif dtype == pl.Null:
        times = values.cast(pl.Int64)
    else:
        raise ValueError(f"{_place(problems)} has type {dtype}: times are numbers or dates; cast it")
    if dates is not None:
        times, fractions = _since_1970(dates, time_unit, problems)
    if times.null_count():
        problems.add(values.is_null(), "timestamp", values, "missing time")
        problems.add(values.is_not_null() & times.is_null(), "timestamp", values, reason)
    lowest = times.min()
    if lowest is not None and lowest < 0:  # type: ignore[operator]
        problems.add(times < 0, "timestamp", values, "negative time: times count from 1970 (or any start) upwards")
    if time_unit in SECONDS:
        if dates is None:
            _refuse_far(times, time_unit, problems, fixed_unit)
        far = times >= math.ceil(_start_of(LAST_YEAR) / SECONDS[time_unit])
        problems.add(far, "timestamp", values, f"in {time_unit} since 1970 this is the year {LAST_YEAR} or later")
    if fractions is not None and not (fractions != times).any():
        fractions = None
    return times.alias("timestamp"), fractions


def refuse_unlike(new: pl.Series, old: np.ndarray, time_unit: str, problems: Problems) -> None:
    """Raises ValueError where new times cannot be in the unit of a data set's, or count from another start.

    Small numbers may count from any start: only a jump over decades is taken for another unit.

    Args:
        new: from ``check_time``, without nulls, at least one.
        old: the data set's times.
        time_unit: its unit, not "order".
        problems: whose source and column are named.
    """
    scale, first = SECONDS[time_unit], _start_of(FIRST_YEAR)
    middle, old_middle = _middle(new), int(np.median(old))
    told = f"{_place(problems)}: {middle} {time_unit} since 1970 is the year {_year(middle * scale)}, and"
    if old_middle * scale >= first > middle * scale and middle * _FAR_BACK < old_middle:
        likely = _likely_unit(middle)
        seem = "another unit" if likely is None else likely
        raise ValueError(
            f"{told} the data set's events are of {_year(old_middle * scale)} ({time_unit}): these seem to be {seem}: "
            f"convert them to {time_unit}"
        )
    latest = int(old.max())
    if middle * scale >= first > old_middle * scale and middle > FAR_ON * latest:
        raise ValueError(
            f"{told} the latest of the data set is {latest}: these count another unit, or the data set from a start of "
            f"its own: convert them to {time_unit} since that start"
        )


def _refuse_far(times: pl.Series, time_unit: str, problems: Problems, fixed_unit: bool) -> None:
    """Raises ValueError where most of the times are of a year that is far away: they count a shorter unit."""
    scale, highest = SECONDS[time_unit], times.max()
    limit = _start_of(LAST_YEAR)
    if highest is None or highest * scale < limit:  # type: ignore[operator]
        return
    middle = _middle(times)
    if middle * scale < limit:
        return
    likely = _likely_unit(middle)
    if likely is None:
        advice = f"give {time_unit} since 1970, or dates such as 2011-12-09 12:50:00"
        if not fixed_unit:
            advice += "; if only their order is known, sort the rows and leave the column out (--timestamp none)"
    elif fixed_unit:
        advice = f"the data set counts {time_unit}, and these seem to be {likely}: convert them"
    elif likely in _FINER:
        divisor = round(SECONDS["milliseconds"] / _FINER[likely])
        advice = f"these seem to be {likely}: divide them by {divisor:,} and say {_option('milliseconds')}"
    else:
        advice = f"say {_option(likely)}"
    raise ValueError(f"{_place(problems)}: {middle} {time_unit} is the year {_year(middle * scale)}: {advice}")


def _of_text(text: pl.Series, problems: Problems) -> tuple[pl.Series, pl.Series | None, pl.Series | None, str]:
    """What most cells are: numbers, or else dates.

    Returns:
        The numbers; the same with their fractions, None where none has any; the dates, None where the column is one of
        numbers; and what is wrong with a cell that is null.
    """
    numbers, fractions = text.cast(pl.Int64, strict=False), None
    if numbers.null_count():
        fractions = text.cast(pl.Float64, strict=False)
        numbers = numbers.zip_with(numbers.is_not_null(), _floor(fractions))
    count = numbers.count()
    if 2 * count >= text.count() > 0:
        reason = "not a time: expected a number, as most are; dates are read where most are dates"
        return numbers, fractions, None, reason
    # Elsewhere polars takes the day to come before the month.
    year_first = text.str.contains(_YEAR_FIRST)
    dates = _dates_of_text(text.set(~year_first, None))
    unclear = text.str.contains(_YEAR_LAST).fill_null(False)
    if unclear.sum() > max(count, dates.count()):
        raise ValueError(f"{_place(problems)}: {text.filter(unclear)[0]!r}: {_UNCLEAR}")
    problems.add(unclear, "timestamp", text, _UNCLEAR)
    if dates.count() > count:
        return numbers, fractions, dates, "not a time: expected a date such as 2011-12-09 12:50:00, as most are"
    return numbers, fractions, None, "not a time: expected a number, or a date such as 2011-12-09 12:50:00"


def _dates_of_text(text: pl.Series) -> pl.Series:
    """As UTC; those with a zone and those without apart, for polars takes no other than the first is."""
    zoned = text.str.contains(_ZONE)
    without, with_zone = (
        text.set(other, None).str.to_datetime(strict=False, time_unit="us", time_zone="UTC")
        for other in (zoned, ~zoned)
    )
    return without.zip_with(without.is_not_null(), with_zone)


def _since_1970(dates: pl.Series, time_unit: str, problems: Problems) -> tuple[pl.Series, pl.Series]:
    """Whole units, and units with their fractions."""
    if time_unit not in SECONDS:
        raise ValueError(
            f"{_place(problems)} holds dates, and time_unit {time_unit!r} says that there are no times: "
            f"give one of {', '.join(SECONDS)}"
        )
    microseconds, unit = dates.dt.epoch("us"), round(SECONDS[time_unit] * 1_000_000)
    return microseconds // unit, microseconds / unit


def _floor(values: pl.Series) -> pl.Series:
    values = values.cast(pl.Float64)
    return values.floor().set(~values.is_finite(), None).cast(pl.Int64, strict=False)


def _middle(times: pl.Series) -> int:
    """A time in the middle of all: a few wrong ones at either end do not count."""
    middle = times.quantile(0.5, "lower")
    assert middle is not None
    return int(middle)


def _likely_unit(time: int) -> str | None:
    """The unit that makes a time a date of our days."""
    units = SECONDS | _FINER
    low, high = map(_start_of, _LIKELY_YEARS)
    return next((unit for unit, scale in units.items() if low <= time * scale <= high), None)


def _start_of(year: int) -> int:
    """Seconds since 1970."""
    return int(np.datetime64(f"{year}-01-01", "s").astype(np.int64))


def _year(seconds: float) -> str:
    seconds = min(int(seconds), 2**62)  # what numpy's dates hold
    year = 1970 + int(np.datetime64(seconds, "s").astype("datetime64[Y]").astype(np.int64))
    return f"{year:,}" if year > 9_999 else str(year)


def _option(unit: str) -> str:
    return f'--time-unit {unit} (in Python time_unit="{unit}")'


def _place(problems: Problems) -> str:
    return f"{problems.source}: column {problems.names.get('timestamp', 'timestamp')!r}"
