"""A progress bar for every phase that a person waits for; silent where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Advance(Protocol):
    """Counts ``steps`` as done; ``note`` (a loss, a file name) stands behind the bar until the next one."""

    def __call__(self, steps: int = 1, note: str = "") -> None: ...


def _silent(steps: int = 1, note: str = "") -> None:
    pass


@contextmanager
def progress(title: str, total: int | None = None, *, quiet: bool = False) -> Iterator[Advance]:
    """Show a bar with the time left on stderr while the block runs.

    Example:
        ``with progress("Training", total=steps) as advance: ...; advance()``

    Args:
        title: what is going on, one or two words.
        total: the number of steps; None where it is not known (the bar then only pulses).
        quiet: show nothing. Nothing is shown either where stderr is not a terminal.

    Yields:
        The function that moves the bar on.
    """
    if quiet or not sys.stderr.isatty():
        yield _silent
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            if note:
                bar.update(task, note=note)
            bar.advance(task, steps)

        yield advance


@contextmanager
def steps(title: str, *, quiet: bool = False) -> Iterator[Callable[[str, float], None]]:
    """A bar that takes the name of what is being done and the fraction done, 0 to 1."""
    with progress(title, total=100, quiet=quiet) as advance:
        shown = 0

        def report(step: str, done: float) -> None:
            nonlocal shown
            advance(int(done * 100) - shown, note=step)
            shown = int(done * 100)

        yield report
