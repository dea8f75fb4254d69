"""Fetch a data set of the catalogue: with consent, verified, unpacked.

Nothing is downloaded without the caller's consent, nothing is trusted without its checksum, and nothing the
user already had is ever overwritten or removed.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from corral.data.catalog import CatalogEntry

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30.0

Progress = Callable[[int, int | None], None]
"""Called with the bytes so far and the total (None where the server does not say)."""


class DownloadError(OSError):
    """A data set could not be fetched; the message says which address and what to do."""


def get(
    entry: CatalogEntry,
    directory: Path,
    consent: Callable[[CatalogEntry], bool],
    *,
    progress: Progress | None = None,
    warn: Callable[[str], None] | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Path:
    """Fetch a data set, verify it, unpack it; return the directory or file its reader takes.

    The archive stays in ``directory``, so a second call downloads nothing; an archive put there by hand is
    used in the same way. A download goes to a temporary name and gets its own name only once it is verified.

    Args:
        entry: the data set.
        directory: where archives and unpacked sets live; made if need be.
        consent: shown the entry (with its licence) before anything is downloaded; False stops.
        progress: called as bytes arrive.
        warn: told of what is odd but no failure (no checksum known, a set that changes with time).
        timeout_seconds: without a byte for so long, the download has failed.

    Raises:
        DownloadError: no consent, no network, wrong checksum, a log-in needed, an unsafe or broken archive.
    """
    archive = directory / entry.file
    if not archive.exists():
        if entry.login:
            raise DownloadError(
                f"{entry.name} needs a log-in, so corral cannot download it. Get {entry.file} from "
                f"{entry.address} and put it here: {archive}, then run `corral data get {entry.name}` again"
            )
        if not consent(entry):
            raise DownloadError(f"{entry.name} was not downloaded: its licence was not accepted")
        directory.mkdir(parents=True, exist_ok=True)
        _download(entry, archive, progress=progress, warn=warn, timeout_seconds=timeout_seconds)
    else:
        found = _mismatch(entry, archive)
        if found is not None:
            _report_mismatch(
                entry,
                found,
                f"the file is left as it is: {archive}. Move it away to download it again",
                warn,
            )
    return _unpacked(entry, archive)


def _checksum(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _mismatch(entry: CatalogEntry, path: Path) -> str | None:
    """``algorithm:sum`` as found where it differs from the expected one, else None."""
    if entry.checksum is None:
        return None
    algorithm, _, expected = entry.checksum.partition(":")
    got = _checksum(path, algorithm)
    return None if got == expected else f"{algorithm}:{got}"


def _report_mismatch(entry: CatalogEntry, found: str, what_now: str, warn: Callable[[str], None] | None) -> None:
    message = f"{entry.name}: wrong checksum: expected {entry.checksum}, got {found}; {what_now}"
    if not entry.changes:
        raise DownloadError(message)
    if warn is not None:
        warn(f"{entry.name}: its maker replaces this file from time to time; expected {entry.checksum}, got {found}")


def _download(
    entry: CatalogEntry,
    archive: Path,
    *,
    progress: Progress | None,
    warn: Callable[[str], None] | None,
    timeout_seconds: float,
) -> None:
    by_hand = (
        f"If this machine has no network, download it elsewhere and put the file here: {archive}, "
        f"then run `corral data get {entry.name}` again"
    )
    handle, name = tempfile.mkstemp(prefix=f".{entry.file}.", suffix=".part", dir=archive.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as out:
            try:
                _stream(entry.address, out.write, progress, timeout_seconds)
            except urllib.error.HTTPError as error:
                raise DownloadError(
                    f"{entry.name}: {entry.address} answered {error.code} ({error.reason}). The maker may "
                    f"have moved the file: look for it, and put it here: {archive}, then run "
                    f"`corral data get {entry.name}` again"
                ) from error
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                reason = getattr(error, "reason", None) or error
                raise DownloadError(f"{entry.name}: cannot download {entry.address} ({reason}). {by_hand}") from error
            out.flush()
            os.fsync(out.fileno())
        if entry.checksum is None and warn is not None:
            warn(f"{entry.name}: no trustworthy checksum is public, so the download could not be verified")
        found = _mismatch(entry, temporary)
        if found is not None:
            _report_mismatch(entry, found, "the download was thrown away; try again later", warn)
        temporary.chmod(0o644)  # mkstemp makes it private; data sets are shared by the users of a machine
        temporary.replace(archive)
    finally:
        temporary.unlink(missing_ok=True)


def _stream(address: str, write: Callable[[bytes], int], progress: Progress | None, timeout_seconds: float) -> None:
    """Copy the body of ``address`` to ``write``; raise where it ends early."""
    request = urllib.request.Request(address, headers={"User-Agent": "corral"})
    with urllib.request.urlopen(request, timeout=timeout_seconds) as response:
        length = response.headers.get("Content-Length")
        total = int(length) if length and length.isdigit() else None
        done = 0
        while chunk := response.read(CHUNK_BYTES):
            write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    # Reading by chunks, http.client takes a connection closed early for the end of the body.
    if total is not None and done != total:
        raise OSError(f"interrupted after {done:,} of {total:,} bytes")


def _unpacked(entry: CatalogEntry, archive: Path) -> Path:
    """The directory with the maker's files; the file itself where it is no archive."""
    if not entry.file.endswith((".zip", ".tar.gz")):
        return archive
    target = archive.parent / entry.name
    if not target.exists():
        partial = Path(tempfile.mkdtemp(prefix=f".{entry.name}.", suffix=".part", dir=archive.parent))
        try:
            if entry.file.endswith(".zip"):
                extract_zip(archive, partial)
            else:
                _extract_tar(archive, partial)
            partial.chmod(0o755)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    folder = target / entry.folder
    if not folder.is_dir():
        raise DownloadError(
            f"{entry.name}: {archive} has no directory {entry.folder!r}; it holds "
            f"{sorted(path.name for path in target.iterdir())[:10]}"
        )
    return folder


def extract_zip(archive: Path, target: Path) -> None:
    """Unpack a zip file, refusing any member that would land outside ``target``.

    Raises:
        DownloadError: the archive is damaged, or a member has an absolute path, a drive, ``..`` or is a link.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            for member in zipped.infolist():
                _refuse_unsafe(archive, member)
            for member in zipped.infolist():
                zipped.extract(member, target)
    except zipfile.BadZipFile as error:
        raise DownloadError(f"{archive}: not a whole zip file ({error}); move it away and get it again") from error


def _refuse_unsafe(archive: Path, member: zipfile.ZipInfo) -> None:
    name = member.filename.replace("\\", "/")
    parts = PurePosixPath(name).parts
    is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
    if is_link or name.startswith("/") or ".." in parts or ":" in name:
        raise DownloadError(f"{archive}: refused, its member {member.filename!r} would be written outside the target")


def _extract_tar(archive: Path, target: Path) -> None:
    if not hasattr(tarfile, "data_filter"):  # Python 3.11.0 to 3.11.3
        raise DownloadError(f"{archive}: unpacking it safely needs Python 3.11.4 or newer; unpack it by hand")
    try:
        with tarfile.open(archive) as tarred:
            tarred.extractall(target, filter="data")  # the "data" filter refuses paths and links that lead out
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DownloadError(f"{archive}: refused or damaged ({error}); move it away and get it again") from error
