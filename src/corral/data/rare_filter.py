"""frequent_rows: which users and items have events enough, whether the events are in memory or on the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from corral.data.vocabulary import FIRST_ROW

Pairs = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]
"""User and item rows of a table, some rows at a time; it is called once for every pass."""


@dataclass(frozen=True)
class Filters:
    """Which users and items are left out; see ``Dataset.write``."""

    min_user_events: int = 1
    min_item_events: int = 1
    iterate: bool = False

    def __bool__(self) -> bool:
        return self.min_user_events > 1 or self.min_item_events > 1


def frequent_rows(
    events: Pairs, impressions: Pairs | None, users: int, items: int, filters: Filters, source: str
) -> tuple[np.ndarray, np.ndarray]:
    """Users and items that keep their rows.

    Args:
        events: of all of them.
        impressions: of all of them, or None.
        users: user rows U, the two reserved ones included.
        items: item rows M, the two reserved ones included.
        filters: with a bound of 1, users or items known from impressions only are kept.
        source: named in the refusal.

    Returns:
        Two masks, bool [U] and [M]. An event or impression is kept if both its rows are.

    Raises:
        ValueError: no event would be left.
    """
    good_users, good_items = np.ones(users, dtype=bool), np.ones(items, dtype=bool)

    def counts(pairs: Pairs, side: int) -> np.ndarray:
        """Kept rows of each user (side 0) or item (1)."""
        total = np.zeros((users, items)[side], dtype=np.int64)
        for pair in pairs():
            keep = good_users[pair[0]] & good_items[pair[1]]
            total += np.bincount(pair[side][keep], minlength=len(total))
        return total

    before = total = sum(len(user) for user, _ in events())
    while True:
        # Counted on what is left.
        good_items &= counts(events, 1) >= (filters.min_item_events if filters.min_item_events > 1 else 0)
        of_user = counts(events, 0)
        good_users &= of_user >= (filters.min_user_events if filters.min_user_events > 1 else 0)
        left = int(of_user[good_users].sum())
        if not left:
            raise ValueError(
                f"{source or 'events'}: min_user_events={filters.min_user_events}, min_item_events="
                f"{filters.min_item_events}{' (iterated)' if filters.iterate else ''} leave none of {total} events: "
                "lower them"
            )
        if not filters.iterate or left == before:
            break
        before = left
    # Users and items that the other filter left without any event or impression have no row.
    used = [counts(events, side) for side in (0, 1)]
    if impressions is not None:
        used = [total + counts(impressions, side) for side, total in enumerate(used)]
    good_users &= used[0] > 0
    good_items &= used[1] > 0
    good_users[:FIRST_ROW] = good_items[:FIRST_ROW] = True
    return good_users, good_items
