"""What is asked about a whole batch, where this process may hold a share of it and others the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from torch import Tensor


class OtherShares(Protocol):
    """The processes that hold the other shares of a batch; each is asked the same things in the same order."""

    def total(self, number: int) -> int:
        """The sum of every process's number."""
        ...

    def largest(self, number: int) -> int:
        """The largest of them."""
        ...

    def before(self, number: int) -> int:
        """The sum of the numbers of the processes before this one."""
        ...

    def share(self, count: int) -> slice:
        """This process's rows of so many, which all processes have."""
        ...

    def summed(self, part: Tensor) -> Tensor:
        """The sum of every process's tensor; its gradient is that of all processes' losses."""
        ...

    def gathered(self, rows: Tensor) -> Tensor:
        """Every process's rows, one share after the other; the gradient goes back to whose they are."""
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


def is_share() -> bool:
    """Whether batches are shares."""
    return _others.get() is not None


def total(number: int) -> int:
    """How many examples the whole batch has, where this process holds ``number``: what a mean is divided by."""
    others = _others.get()
    return number if others is None else others.total(number)


def largest(number: int) -> int:
    """The largest such number of any share: for choices that all processes must make alike."""
    others = _others.get()
    return number if others is None else others.largest(number)


def summed(part: Tensor) -> Tensor:
    """The sum over all shares of what this process found of its own, with gradient."""
    others = _others.get()
    return part if others is None else others.summed(part)


def gathered(rows: Tensor) -> Tensor:
    """The rows of all shares, in the order of the batch, with gradient."""
    others = _others.get()
    return rows if others is None else others.gathered(rows)


def by_shares(rows: Tensor, work: Callable[[Tensor], Tensor]) -> Tensor:
    """``work(rows)`` of rows that all processes have; each does a share of them, and is told the rest."""
    others = _others.get()
    return work(rows) if others is None else others.gathered(work(rows[others.share(len(rows))]))


def placed(number: int) -> tuple[int, slice]:
    """How many rows all shares have, where this one has ``number``, and which of them are its own."""
    others = _others.get()
    if others is None:
        return number, slice(0, number)
    first = others.before(number)
    return others.total(number), slice(first, first + number)
