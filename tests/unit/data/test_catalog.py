"""The catalogue and its downloads, against a web server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import io
import re
import socket
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.data.catalog import CATALOG, CatalogEntry
from corral.data.download import DownloadError, extract_zip, get

BODY = b"user,item,time\n" * 1000


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/missing.csv":
            self.send_error(404)
            return
        body: bytes = self.server.bodies[self.path]  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.path.startswith("/cut")
        self.wfile.write(body[: len(body) // 2] if cut else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def bodies() -> dict[str, bytes]:
    return {"/good.csv": BODY, "/cut.csv": BODY}


@pytest.fixture
def address(bodies: dict[str, bytes]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.bodies = bodies  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def entry(address: str, file: str, checksum: str | None = None, **changes: object) -> CatalogEntry:
    fields: dict[str, object] = {
        "name": "tiny",
        "title": "a tiny set",
        "address": f"{address}/{file}",
        "file": file,
        "checksum": checksum,
        "licence": "CC0",
        "reader": "table",
    }
    return CatalogEntry(**{**fields, **changes})  # type: ignore[arg-type]


def sha256(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


def yes(_: CatalogEntry) -> bool:
    return True


def leftovers(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return buffer.getvalue()


def test_every_entry_is_well_formed() -> None:
    for name, item in CATALOG.items():
        assert re.fullmatch(r"[a-z0-9-]+", name), name
        assert item.address.startswith("https://"), name
        assert "/" not in item.file, name
        assert item.licence, name
        if item.checksum is not None:
            assert re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", item.checksum), name
    assert len({item.file for item in CATALOG.values()}) == len(CATALOG)
    sums = [item.checksum for item in CATALOG.values() if item.checksum]
    assert len(set(sums)) == len(sums)


@pytest.mark.parametrize("checksum", [sha256(BODY), "md5:" + hashlib.md5(BODY).hexdigest()])
def test_get_downloads_verifies_and_keeps(address: str, tmp_path: Path, checksum: str) -> None:
    seen: list[tuple[int, int | None]] = []
    path = get(
        entry(address, "good.csv", checksum),
        tmp_path / "new",
        yes,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert path.read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert leftovers(tmp_path / "new") == ["good.csv"]


def test_get_needs_consent_and_a_second_get_downloads_nothing(address: str, tmp_path: Path) -> None:
    tiny = entry(address, "good.csv", sha256(BODY))
    with pytest.raises(DownloadError, match="licence was not accepted"):
        get(tiny, tmp_path / "new", lambda _: False)
    assert not (tmp_path / "new").exists()
    get(tiny, tmp_path, yes)
    asked: list[str] = []
    get(tiny, tmp_path, lambda item: bool(asked.append(item.name)))
    assert asked == []


def test_wrong_checksum_says_expected_and_got_and_leaves_nothing(address: str, tmp_path: Path) -> None:
    wrong = "sha256:" + "0" * 64
    with pytest.raises(DownloadError) as error:
        get(entry(address, "good.csv", wrong), tmp_path, yes)
    assert wrong in str(error.value)
    assert sha256(BODY) in str(error.value)
    assert leftovers(tmp_path) == []


def test_a_file_put_there_by_hand_is_verified_but_never_removed(address: str, tmp_path: Path) -> None:
    (tmp_path / "good.csv").write_bytes(b"something the user had")
    with pytest.raises(DownloadError, match="left as it is"):
        get(entry(address, "good.csv", sha256(BODY)), tmp_path, yes)
    assert (tmp_path / "good.csv").read_bytes() == b"something the user had"
    (tmp_path / "good.csv").write_bytes(BODY)
    assert get(entry("http://127.0.0.1:1", "good.csv", sha256(BODY)), tmp_path, yes) == tmp_path / "good.csv"


def test_a_set_that_changes_with_time_warns(address: str, tmp_path: Path) -> None:
    warnings: list[str] = []
    changing = entry(address, "good.csv", "md5:" + "0" * 32, changes=True)
    assert get(changing, tmp_path, yes, warn=warnings.append).read_bytes() == BODY
    assert len(warnings) == 1
    assert "replaces this file" in warnings[0]


def test_no_checksum_known_warns(address: str, tmp_path: Path) -> None:
    warnings: list[str] = []
    get(entry(address, "good.csv"), tmp_path, yes, warn=warnings.append)
    assert "could not be verified" in warnings[0]


def test_404_names_address_and_place(address: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as error:
        get(entry(address, "missing.csv"), tmp_path, yes)
    assert "404" in str(error.value)
    assert f"{address}/missing.csv" in str(error.value)
    assert str(tmp_path / "missing.csv") in str(error.value)
    assert leftovers(tmp_path) == []


def test_interrupted_download_leaves_nothing(address: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"interrupted after 7,500 of 15,000 bytes|IncompleteRead"):
        get(entry(address, "cut.csv", sha256(BODY)), tmp_path, yes)
    assert leftovers(tmp_path) == []


def test_no_network_says_which_address_and_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"  # bound, not listening: refused
        with pytest.raises(DownloadError) as error:
            get(entry(address, "good.csv"), tmp_path, yes)
    assert f"{address}/good.csv" in str(error.value)
    assert f"put the file here: {tmp_path / 'good.csv'}" in str(error.value)
    assert leftovers(tmp_path) == []


def test_login_says_put_the_file_here(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="needs a log-in") as error:
        get(CATALOG["tmall"], tmp_path, yes)
    assert str(tmp_path / "data_format2.zip") in str(error.value)


def test_zip_is_unpacked_into_its_own_directory(address: str, bodies: dict[str, bytes], tmp_path: Path) -> None:
    bodies["/tiny.zip"] = zipped({"inner/ratings.csv": b"a,b\n", "inner/README": b"read me"})
    tiny = entry(address, "tiny.zip", sha256(bodies["/tiny.zip"]), folder="inner")
    path = get(tiny, tmp_path, yes)
    assert path == tmp_path / "tiny" / "inner"
    assert (path / "ratings.csv").read_bytes() == b"a,b\n"
    assert leftovers(tmp_path) == ["tiny", "tiny.zip"]


def test_tar_is_unpacked(address: str, bodies: dict[str, bytes], tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tarred:
        info = tarfile.TarInfo("data/log.csv")
        info.size = 4
        tarred.addfile(info, io.BytesIO(b"a,b\n"))
    bodies["/tiny.tar.gz"] = buffer.getvalue()
    path = get(entry(address, "tiny.tar.gz", sha256(buffer.getvalue()), folder="data"), tmp_path, yes)
    assert (path / "log.csv").read_bytes() == b"a,b\n"


@pytest.mark.parametrize("member", ["../outside.txt", "/outside.txt", "a/../../outside.txt", "..\\outside.txt"])
def test_zip_that_would_write_outside_is_refused(tmp_path: Path, member: str) -> None:
    archive = tmp_path / "evil.zip"
    archive.write_bytes(zipped({"fine.txt": b"fine", member: b"evil"}))
    (tmp_path / "target").mkdir()
    with pytest.raises(DownloadError, match="refused"):
        extract_zip(archive, tmp_path / "target")
    assert leftovers(tmp_path / "target") == []
    assert leftovers(tmp_path) == ["evil.zip", "target"]


def test_zip_with_a_link_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "link.zip"
    with zipfile.ZipFile(archive, "w") as writer:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        writer.writestr(info, "/etc")
    (tmp_path / "target").mkdir()
    with pytest.raises(DownloadError, match="refused"):
        extract_zip(archive, tmp_path / "target")


def test_tar_that_would_write_outside_is_refused(address: str, bodies: dict[str, bytes], tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tarred:
        info = tarfile.TarInfo("../outside.txt")
        tarred.addfile(info)
    bodies["/evil.tar.gz"] = buffer.getvalue()
    with pytest.raises(DownloadError, match="refused"):
        get(entry(address, "evil.tar.gz"), tmp_path, yes)
    assert leftovers(tmp_path) == ["evil.tar.gz"]


def test_broken_zip_is_named(address: str, bodies: dict[str, bytes], tmp_path: Path) -> None:
    bodies["/broken.zip"] = b"not a zip"
    with pytest.raises(DownloadError, match="not a whole zip file"):
        get(entry(address, "broken.zip"), tmp_path, yes)
    assert leftovers(tmp_path) == ["broken.zip"]
