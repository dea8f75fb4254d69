"""only_holder: the lock of a file or directory, held by one at a time and gone with its process"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def only_holder(path: Path, refusal: str) -> Iterator[None]:
    """Holds the lock of ``path`` inside; readers of it are not kept out. However the process ends, the lock is free.

    Nothing is locked where nothing is there, or where the system or the file system knows no locks.

    Args:
        path: a file or directory.
        refusal: what is said to the second one.

    Raises:
        ValueError: somebody else holds it, or puts something else in the place of ``path`` right now.
    """
    with contextlib.ExitStack() as held:
        if fcntl is not None and path.exists():
            lock = os.open(path, os.O_RDONLY)
            held.callback(os.close, lock)
            try:
                _take(lock, path)
            except BlockingIOError as error:
                raise ValueError(refusal) from error
        yield


def _take(lock: int, path: Path) -> None:
    """Locks the descriptor of ``path``; BlockingIOError: it cannot be had."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return
    if not path.exists() or os.stat(path).st_ino != os.fstat(lock).st_ino:
        raise BlockingIOError
