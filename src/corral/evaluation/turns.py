"""Turns: several processes judge the same targets; each does some of the batches and is told about the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from torch import Tensor


class Turns(Protocol):
    """Who does which batch.

    Attributes:
        size: processes.
        rank: this one's turn among ``size`` batches in a row.
    """

    size: int
    rank: int

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Every process's tensor, in the order of turns; they may differ in the first dimension."""
        ...


_turns: ContextVar[Turns | None] = ContextVar("turns", default=None)


@contextmanager
def by_turns(turns: Turns) -> Iterator[None]:
    """Inside, a ``Funnel`` asks both stages for this process's batches alone, and is told about the others.

    All processes must judge the same targets with the same models: then each sees the same batches with the same
    numbers, to the last bit, as if it had done them all.
    """
    before = _turns.set(turns)
    try:
        yield
    finally:
        _turns.reset(before)


def present_turns() -> Turns | None:
    """The turns of the block, if there are any."""
    return _turns.get()
