"""ImpressionLog: the lists that were served, in files that `corral data append --impressions` reads."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from corral.data.served_lists import SUFFIX
from corral.data.time_units import SECONDS

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

Id = int | str


@dataclass(frozen=True)
class ServedList:
    """What one user was answered.

    Attributes:
        user_id: of whoever asked; lists of users without an id are not logged.
        time: of the request, in the data set's unit.
        item_ids: best first.
        bundle: the version that answered.
    """

    user_id: Id
    time: int
    item_ids: list[Id]
    bundle: str


class ImpressionLog:
    """One line of JSON a list, in files of a directory; each server process has files of its own.

    A line is handed to the operating system before the next batch is written: a killed process loses the lists that
    waited for the writer, at most. A file is synced to the disk when it is full and when the log is closed.

    Args:
        directory: made where there is none; readable by its owner alone.
        time_unit: of the data set: the clock's unit for requests that name no time.
        most_bytes: a file that is larger is closed, and the next one begun.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        directory: Path,
        *,
        time_unit: str = "seconds",
        most_bytes: int = 64 << 20,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if time_unit not in SECONDS:
            raise ValueError(f"time unit {time_unit!r}: expected one of {', '.join(SECONDS)}")
        if most_bytes < 1:
            raise ValueError(f"most_bytes={most_bytes}: must be positive")
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory, self._unit, self._most_bytes, self._clock = directory, SECONDS[time_unit], most_bytes, clock
        self._stem, self._number = f"{int(clock() * 1000)}-{os.getpid()}", 0
        self._file: IO[bytes] | None = None

    def now(self) -> int:
        """The time in the data set's unit."""
        return int(self._clock() / self._unit)

    def write(self, lists: Sequence[ServedList]) -> None:
        """Adds lines; of one thread."""
        if self._file is None:
            # A name of its own: neither another server nor an earlier life of this one wrote there.
            path = self.directory / f"{self._stem}-{self._number:06d}{SUFFIX}"
            self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600), "ab")
            if fcntl is not None:
                # Says to whoever wants to forget a user that the file is in use.
                fcntl.flock(self._file, fcntl.LOCK_EX)
        self._file.write(b"".join(json.dumps(asdict(one)).encode() + b"\n" for one in lists))
        self._file.flush()
        if self._file.tell() >= self._most_bytes:
            self.close()

    def close(self) -> None:
        """Syncs and closes the file; another write begins the next one."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file, self._number = None, self._number + 1
