"""atomic_directory: a directory that appears whole or not at all, with a checksum of every file."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import hashlib
import math
import os
import secrets
import shutil
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from corral.data.arrow_file import write_arrow_column
from corral.data.dataset_header import FileEntry

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_CHUNK_BYTES = 1 << 22
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class DirectoryFiles:
    """The files of a directory that is being written; each is checksummed while written, and fsynced.

    Attributes:
        entries: size, checksum, type and shape by file name, for the header.
        contents: digest of what a file holds, by file name: the same whatever version of Arrow wrote it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.entries: dict[str, FileEntry] = {}
        self.contents: dict[str, str] = {}

    def array(self, name: str, values: np.ndarray) -> None:
        """Writes a .npy file."""
        self.array_of(name, values.dtype, values.shape, [values])

    def array_of(self, name: str, dtype: np.dtype, shape: tuple[int, ...], pieces: Iterable[np.ndarray]) -> None:
        """Writes a .npy file of an array that comes in pieces, one in memory at a time.

        Raises:
            ValueError: the pieces do not fill ``shape``.
        """
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        needed, held = dtype.itemsize * math.prod(shape), 0
        with _HashedFile(self._path(name)) as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            for piece in pieces:
                data = np.ascontiguousarray(piece, dtype=dtype).reshape(-1).view(np.uint8).data
                held += len(data)
                for start in range(0, len(data), _CHUNK_BYTES):
                    stream.write(data[start : start + _CHUNK_BYTES])
        if held != needed:
            raise ValueError(f"{name}: {held} bytes where an array of shape {shape} has {needed}")
        self.entries[name] = stream.entry(str(dtype), shape)
        self.contents[name] = self.entries[name].sha256

    def arrow(self, name: str, column: str, values: pa.Array) -> None:
        """Writes an Arrow IPC file with one column."""
        with _HashedFile(self._path(name)) as stream:
            write_arrow_column(stream, column, values)
        self.entries[name] = stream.entry("arrow", (len(values),))
        self.contents[name] = _content_digest(values)

    def text(self, name: str, content: str) -> None:
        """Writes a UTF-8 text file; it gets no entry."""
        with _HashedFile(self._path(name)) as stream:
            stream.write(content.encode())

    def _path(self, name: str) -> Path:
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        return path


def _content_digest(values: pa.Array) -> str:
    """sha256 of int64 or large_string values without nulls: the numbers, or lengths and UTF-8 bytes."""
    digest = hashlib.sha256(str(values.type).encode())
    if pa.types.is_int64(values.type):
        digest.update(np.ascontiguousarray(np.from_dlpack(values)).data)
        return digest.hexdigest()
    assert pa.types.is_large_string(values.type), values.type
    _, offsets, data = values.buffers()
    bounds = np.zeros(1, dtype=np.int64)
    if len(values):
        bounds = np.frombuffer(offsets, dtype=np.int64)[values.offset : values.offset + len(values) + 1]
    digest.update(np.diff(bounds).data)
    if bounds[-1] > bounds[0]:
        digest.update(memoryview(data)[bounds[0] : bounds[-1]])
    return digest.hexdigest()


class _HashedFile:
    """A file for writing that keeps the checksum of what passes, and is fsynced when left."""

    closed = False

    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb", buffering=0)
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._digest.update(view)
        written = 0
        while written < len(view):
            written += self._stream.write(view[written:]) or 0
        self._size += written
        return written

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        """Left to __exit__."""

    def __enter__(self) -> _HashedFile:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            os.fsync(self._stream.fileno())
        self._stream.close()

    def entry(self, dtype: str, shape: tuple[int, ...]) -> FileEntry:
        return FileEntry(bytes=self._size, sha256=self._digest.hexdigest(), dtype=dtype, shape=shape)


@contextlib.contextmanager
def atomic_directory(
    path: Path, *, overwrite: bool, marker: str, ours: Callable[[Path], Container[str]] | None = None
) -> Iterator[DirectoryFiles]:
    """Fills a hidden sibling of ``path``, which takes its place when the block ends without an error.

    After an error or an interrupt (Ctrl-C) nothing is left; a killed process may leave the hidden sibling
    ``.NAME.writing-*``, never a half-written ``path``. The next writer of ``path`` sweeps it away.

    Args:
        path: the directory to make.
        overwrite: replace an existing one, in one step.
        marker: only a directory that holds a file of this name is ever replaced.
        ours: the names of the files that a directory is made of, as relative paths: others are somebody's, and go on
            in the new one; None: all are ours.

    Raises:
        FileExistsError: ``path`` exists and may not be replaced.
        OSError: the disk is full (it names ``path``), or cannot be written.
    """
    path = Path(os.path.abspath(path))
    if path.exists() or path.is_symlink():
        if not overwrite:
            raise FileExistsError(f"{path}: exists already: choose another place, or pass overwrite=True (--overwrite)")
        if not (path / marker).is_file():
            raise FileExistsError(f"{path}: has no {marker}, so it is not ours to replace: choose another place")
        path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    temporary, lock = _locked_sibling(path)
    try:
        yield DirectoryFiles(temporary)
        for directory in [temporary, *(entry for entry in temporary.iterdir() if entry.is_dir())]:
            _fsync_directory(directory)
        if overwrite and path.exists():
            if ours is not None:
                mine = ours(path)
                carry_over(path, temporary, (name for name in path.rglob("*") if _name(name, path) not in mine))
            _exchange(temporary, path)
        else:
            # Fails if somebody made a directory with files there in the meantime.
            os.rename(temporary, path)
        _fsync_directory(path.parent)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
    finally:
        # After an exchange this is the replaced directory.
        shutil.rmtree(temporary, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def carry_over(old: Path, new: Path, paths: Iterable[Path]) -> None:
    """Files of an old directory in the new one, at the same places; what the new one has stays.

    Hard links where the file system has them: who has a file open goes on with it.

    Args:
        old: the directory.
        new: the other one.
        paths: of files in ``old``; directories are left out.
    """
    for path in paths:
        target = new / path.relative_to(old)
        if (path.is_dir() and not path.is_symlink()) or os.path.lexists(target):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target, follow_symlinks=False)
        except OSError:
            shutil.copy2(path, target, follow_symlinks=False)


def _name(path: Path, directory: Path) -> str:
    return path.relative_to(directory).as_posix()


def _locked_sibling(path: Path) -> tuple[Path, int | None]:
    """A new hidden sibling, and the descriptor whose lock says that its writer is alive (None without locks)."""
    while True:
        temporary = path.parent / f".{path.name}.writing-{secrets.token_hex(6)}"
        temporary.mkdir()
        if fcntl is None:
            return temporary, None
        # Until it is locked, another writer may take it for a dead one's, and sweep it: then make another.
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(temporary, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a file system without locks: nothing is swept there either
                fcntl.flock(lock, fcntl.LOCK_EX)
            if temporary.exists():
                return temporary, lock
            os.close(lock)


def _sweep(path: Path) -> None:
    """Removes siblings of writers that were killed: the lock of a dead process is free."""
    if fcntl is None:
        return
    for left in path.parent.glob(f".{glob.escape(path.name)}.writing-*"):
        with contextlib.suppress(OSError):
            lock = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(lock)


def _exchange(new: Path, old: Path) -> None:
    """Swaps two directories; in one step where the system can (Linux), else in two renames."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if rename is not None and not rename(
        _AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), ctypes.c_uint(_RENAME_EXCHANGE)
    ):
        return
    aside = old.parent / f".{old.name}.replaced-{secrets.token_hex(6)}"
    os.rename(old, aside)
    try:
        os.rename(new, old)
    except BaseException:
        os.rename(aside, old)
        raise
    os.rename(aside, new)


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
