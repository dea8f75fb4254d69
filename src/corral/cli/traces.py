"""traces: files that still hold a user's id, by their structure where it is known and by their bytes everywhere."""

from __future__ import annotations

import json
import mmap
import re
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from corral.data.vocabulary import UNKNOWN, Vocabulary

# Shorter ids stand in any file by chance: of them only the places made for ids are looked at.
LEAST_CHARACTERS, LEAST_NUMBER = 6, 1 << 32
TEXTS = {".json", ".jsonl", ".yaml", ".yml", ".txt", ".csv", ".tsv", ".html", ".md", ".log"}


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        found: a line a file that holds the id.
        files: how many were searched.
        bytes_searched: how much they hold.
        where: in what of them was looked: of ids that stand in any file by chance not in all bytes.
    """

    found: tuple[str, ...]
    files: int
    bytes_searched: int
    where: str


def traces(user: int | str, places: Sequence[Path]) -> Search:
    """Looks for an id in files, and in all files below directories.

    Where ids are known to stand (vocabularies, logs of served lists, live events) exact ids are compared. Everywhere
    else bytes are: the text of the id, in text files not as a part of a longer word; of numbers their eight bytes, too.
    Compressed arrays (.npz) hold rows, not ids.

    Args:
        user: external id.
        places: files or directories; those that are not there are passed over.
    """
    found, files, size = [], 0, 0
    for file in _files(places):
        files, size = files + 1, size + file.stat().st_size
        found += [f"{file}: {how}" for how in _of_file(file, user)]
    return Search(tuple(found), files, size, _where(user))


def _files(places: Sequence[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_dir():
            yield from sorted(file for file in place.rglob("*") if file.is_file())
        elif place.is_file():
            # SQLite's newest rows stand beside its file.
            yield from (
                file for file in (place, *(Path(f"{place}{end}") for end in ("-wal", "-shm"))) if file.is_file()
            )


def _where(user: int | str) -> str:
    """What of a file is looked at, in words."""
    if not _distinctive(user):
        return "the places made for ids; so short an id stands in other bytes by chance"
    if isinstance(user, int) and abs(user) < LEAST_NUMBER:
        return "the places made for ids, and all text; so small a number stands in other bytes by chance"
    return "all bytes"


def _distinctive(user: int | str) -> bool:
    return len(str(user)) >= LEAST_CHARACTERS


def _of_file(file: Path, user: int | str) -> Iterator[str]:
    text, distinctive = str(user), _distinctive(user)
    if distinctive and text in file.name:
        yield "the name of the file"
    if file.name == "users.arrow" or file.name.endswith(".vocabulary.arrow"):
        # Ids stand side by side there: one may hold the bytes of another.
        if file.name == "users.arrow" and _in_vocabulary(file, user):
            yield "an id"
        return
    if file.suffix == ".jsonl" and any(_user_of(line) == user for line in file.read_bytes().splitlines()):
        yield "a line of the user's"
    if _is_sqlite(file):
        rows = _live_events(file, user)
        if rows is not None and rows[0]:
            yield "live events of the user"
        if rows is not None and rows[1]:
            return
    if distinctive and _in_bytes(file, user, text):
        yield "the bytes of the id"


def _in_vocabulary(file: Path, user: int | str) -> bool:
    vocabulary = Vocabulary.open(file)
    return (vocabulary.id_type == "string") == isinstance(user, str) and int(vocabulary.rows([user])[0]) != UNKNOWN


def _user_of(line: bytes) -> object:
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said.get("user_id") if isinstance(said, dict) else None


def _is_sqlite(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(16) == b"SQLite format 3\0"


def _live_events(file: Path, user: int | str) -> tuple[bool, bool] | None:
    """Whether a store has events of the user, and whether other ids in it hold this one's bytes; None: no store."""
    connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
    same, alike = "user = ?", "user <> ? AND (instr(user, ?) OR instr(item, ?))"
    try:
        return (
            connection.execute(f"SELECT 1 FROM events WHERE {same} LIMIT 1", (user,)).fetchone() is not None,
            connection.execute(f"SELECT 1 FROM events WHERE {alike} LIMIT 1", (user,) * 3).fetchone() is not None,
        )
    except sqlite3.Error:
        return None
    finally:
        connection.close()


def _in_bytes(file: Path, user: int | str, text: str) -> bool:
    if not file.stat().st_size:
        return False
    patterns = [re.escape(text.encode())]
    if file.suffix in TEXTS:
        patterns = [rb"(?<![\w-])" + patterns[0] + rb"(?![\w-])"]
    if isinstance(user, int) and abs(user) >= LEAST_NUMBER:
        patterns.append(re.escape(struct.pack("<q", user)))
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as contents:
        # Decimal digits of a number are no sign outside of texts: parts of checksums and sizes look like them.
        wanted = patterns if isinstance(user, str) or file.suffix in TEXTS else patterns[1:]
        return any(re.search(pattern, contents) for pattern in wanted)
