"""Numbers as a reader wants them; a number that does not exist is a dash."""

from __future__ import annotations

import math

NOTHING = "–"


def count(value: float | None) -> str:
    """A whole number, thousands apart."""
    return NOTHING if value is None or math.isnan(value) else f"{round(value):,}"


def decimal(value: float | None, places: int = 4) -> str:
    """A number with ``places`` decimals."""
    return NOTHING if value is None or math.isnan(value) else f"{value:,.{places}f}"


def mean_and_sd(mean: float | None, sd: float | None) -> str:
    """A mean over seeds with its standard deviation, where there is one."""
    return decimal(mean) + ("" if sd is None else f" ± {decimal(sd)}")


def signed(value: float | None, places: int = 4) -> str:
    """A number with its sign."""
    return NOTHING if value is None or math.isnan(value) else f"{value:+,.{places}f}"


def moved(before: int, now: int) -> str:
    """How many places something went up or down a list."""
    return f"▲ {before - now}" if now < before else f"▼ {now - before}" if now > before else "="


def p_value(value: float) -> str:
    """A probability of a test; resamples say nothing beyond the fourth decimal."""
    return f"{value:.4f}" if value >= 0.0001 else "< 0.0001"


def percent(value: float | None, places: int = 1) -> str:
    """A share of one as a percentage."""
    return NOTHING if value is None or math.isnan(value) else f"{100.0 * value:.{places}f} %"


def seconds(value: float | None) -> str:
    """A duration."""
    if value is None or math.isnan(value):
        return NOTHING
    if value >= 120.0:
        return f"{int(value // 60)} min {value % 60:.0f} s"
    return f"{value:.1f} s" if value >= 1.0 else f"{1000.0 * value:.1f} ms"


def plain(value: object) -> str:
    """Anything else: numbers as above, the rest as it prints."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return NOTHING if math.isnan(value) else f"{value:g}"
    return str(value)
