"""Units of time: what a data set's timestamps may count"""

from __future__ import annotations

SECONDS = {"seconds": 1.0, "milliseconds": 1e-3, "minutes": 60.0, "hours": 3_600.0, "days": 86_400.0}
"""How many seconds each is."""

TIME_UNITS = (*SECONDS, "order")
"""All of them; "order" is none: the source has no times."""

LATEST = 2**62
"""The latest moment that a service takes, from 0, in any unit: what is added to a moment then fits into 64 bits."""


def require_unit(unit: str) -> None:
    """Raises ValueError for what is not one of ``TIME_UNITS``."""
    if unit not in TIME_UNITS:
        raise ValueError(f"time_unit {unit!r}: expected one of {', '.join(TIME_UNITS)}")
