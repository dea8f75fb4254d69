"""total, largest: numbers about a whole batch, where this process may hold a share of it and others the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class OtherShares(Protocol):
    """The processes that hold the other shares of a batch; each is asked the same things in the same order."""

    def total(self, number: int) -> int:
        """The sum of every process's number."""
        ...

    def largest(self, number: int) -> int:
        """The largest of them."""
        ...


_others: ContextVar[OtherShares | None] = ContextVar("others", default=None)


@contextmanager
def in_shares(others: OtherShares) -> Iterator[None]:
    """Batches are shares inside: means are over the whole batch, and what depends on its sizes is decided alike."""
    before = _others.set(others)
    try:
        yield
    finally:
        _others.reset(before)


def total(number: int) -> int:
    """How many examples the whole batch has, where this process holds ``number``: what a mean is divided by."""
    others = _others.get()
    return number if others is None else others.total(number)


def largest(number: int) -> int:
    """The largest such number of any share: for choices that all processes must make alike."""
    others = _others.get()
    return number if others is None else others.largest(number)
