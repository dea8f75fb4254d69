"""LiveEvents: where users' events since the export are kept, durable before they are acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Id = int | str


@dataclass(frozen=True)
class Event:
    """A user had something to do with an item at a time (in the data set's unit)."""

    user: Id
    item: Id
    time: int


class StoreError(Exception):
    """The store cannot be read or written now; nothing may be acknowledged."""


class LiveEvents(Protocol):
    """The small interface that servers need; safe to call from several threads.

    An event that is there already, same user, item and time, is not kept twice: whoever got no answer may send
    it again. All methods raise ``StoreError``.
    """

    def append(self, events: Sequence[Event]) -> None:
        """Keeps events; when this returns, a crash loses none of them."""

    def since(self, users: Sequence[Id], time: int, last: int) -> dict[Id, list[Id]]:
        """Items by user: of events later than ``time``, oldest first, the ``last`` latest of each user.

        Events of equal time come in one fixed order. Users without such events are left out.
        """

    def forget(self, user: Id) -> int:
        """Removes a user's events, and says how many there were; when this returns, no file holds the id."""

    def check(self) -> None:
        """Raises if the store does not answer."""

    def close(self) -> None:
        """Lets go of files and connections."""
