"""SqliteEvents: live events in one file, for the servers of one machine."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from corral.serving.http.live_events import Event, Id, StoreError

FORMAT_VERSION = 1


class SqliteEvents:
    """A ``LiveEvents`` in an SQLite file: write-ahead log, synced to the disk at every commit.

    Reads have a connection of their own: in WAL mode they do not wait for a commit under way.

    Args:
        path: the file; made where there is none.

    Raises:
        ValueError: the file is no such store, or of a newer format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._locks = {"write": threading.Lock(), "read": threading.Lock()}
        try:
            self._connections = {name: _connect(path) for name in self._locks}
            self._make(self._connections["write"])
        except sqlite3.Error as error:
            raise ValueError(f"{path}: cannot keep live events there: {error}; name another file") from error

    def _make(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > FORMAT_VERSION:
            raise ValueError(f"{self.path}: live events of format {version}; this corral reads up to {FORMAT_VERSION}")
        # Columns without a type keep numbers as numbers and text as text.
        connection.execute(
            "CREATE TABLE IF NOT EXISTS events (user NOT NULL, item NOT NULL, time INTEGER NOT NULL,"
            " UNIQUE (user, time, item))"
        )
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")

    @contextmanager
    def _connection(self, name: str) -> Iterator[sqlite3.Connection]:
        with self._locks[name]:
            try:
                yield self._connections[name]
            except sqlite3.Error as error:
                raise StoreError(f"{self.path}: {error}") from error

    def append(self, events: Sequence[Event]) -> None:
        """See ``LiveEvents``; all of them or none."""
        # Not OR IGNORE, which would also pass over what may not be null.
        added = "INSERT INTO events (user, item, time) VALUES (?, ?, ?) ON CONFLICT (user, time, item) DO NOTHING"
        rows = [(event.user, event.item, event.time) for event in events]
        with self._connection("write") as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany(added, rows)
                connection.execute("COMMIT")
            except sqlite3.Error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def since(self, users: Sequence[Id], time: int, last: int) -> dict[Id, list[Id]]:
        """See ``LiveEvents``; equal times in the order of arrival."""
        wanted = "SELECT item FROM events WHERE user = ? AND time > ? ORDER BY time DESC, rowid DESC LIMIT ?"
        found: dict[Id, list[Id]] = {}
        with self._connection("read") as connection:
            for user in users:
                if rows := connection.execute(wanted, (user, time, last)).fetchall():
                    found[user] = [item for (item,) in reversed(rows)]
        return found

    def forget(self, user: Id) -> int:
        """See ``LiveEvents``; what SQLite would keep in free pages and in its write-ahead log is overwritten."""
        with self._connection("write") as connection:
            connection.execute("PRAGMA secure_delete = ON")
            removed = connection.execute("DELETE FROM events WHERE user = ?", (user,)).rowcount
            connection.execute("VACUUM")
            # Busy where another server reads at this moment: its log is then emptied a little later.
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise StoreError(f"{self.path}: is in use: the events are removed, but call again to empty its log")
        return removed

    def check(self) -> None:
        """See ``LiveEvents``."""
        with self._connection("read") as connection:
            connection.execute("SELECT 1 FROM events LIMIT 1").fetchone()

    def close(self) -> None:
        """See ``LiveEvents``."""
        for name, connection in self._connections.items():
            with self._locks[name]:
                connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection
