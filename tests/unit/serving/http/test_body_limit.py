"""BodyLimit: bytes and seconds of a body, whatever its headers claim; asked over real sockets."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest
from running_server import running
from small_service import SmallService
from test_app import BODIES

from corral.serving.http.limits import Limits

LIMIT = 2_000
SECONDS = 0.4
BODY = json.dumps(BODIES["/v1/recommend"]).encode()
HEAD = b"POST /v1/recommend HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\n"

Address = tuple[str, int]


@pytest.fixture
def address(service: SmallService) -> Iterator[Address]:
    app = service.client(limits=Limits(body_bytes=LIMIT, seconds=SECONDS)).app
    with running(app) as address:  # type: ignore[arg-type]
        yield address


def status(connection: socket.socket) -> int:
    """Of the answer; 0 where the server hung up without one."""
    connection.settimeout(10)
    answer = connection.recv(1 << 16)
    return int(answer.split()[1]) if answer else 0


def send(address: Address, data: bytes) -> int:
    with socket.create_connection(address) as connection:
        connection.sendall(data)
        return status(connection)


def whole(body: bytes, length: int | None = None) -> bytes:
    return HEAD + b"content-length: %d\r\n\r\n" % (len(body) if length is None else length) + body


def chunked(*parts: bytes) -> bytes:
    return HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in parts)


def test_bodies_within_the_limit_are_answered(address: Address) -> None:
    padded = BODY + b" " * (LIMIT - len(BODY))
    assert send(address, whole(padded)) == 200
    assert send(address, chunked(BODY[:10], BODY[10:]) + b"0\r\n\r\n") == 200


def test_larger_ones_are_refused(address: Address) -> None:
    assert send(address, whole(BODY + b" " * LIMIT)) == 413
    assert send(address, whole(b"", length=10**12)) == 413  # before anything of it has come
    assert send(address, chunked(*[b" " * 500] * 5)) == 413  # which never says how long it is


def test_lengths_that_are_none_are_refused(address: Address) -> None:
    for length in (b"-1", b"x", b"1e3", b"9" * 4_000):
        assert send(address, HEAD + b"content-length: " + length + b"\r\n\r\n" + BODY) in (400, 413)


def test_slow_bodies_are_refused_and_hold_nobody_up(address: Address) -> None:
    """Clients that stop within the body, within the headers, or say nothing at all."""
    slow = [socket.create_connection(address) for _ in range(30)]
    try:
        for place, connection in enumerate(slow):
            connection.sendall((whole(BODY[:5], length=len(BODY)), HEAD, b"")[place % 3])
        for _ in range(5):
            assert send(address, whole(BODY)) == 200
        assert {status(connection) for connection in slow[::3]} == {408}
    finally:
        for connection in slow:
            connection.close()


def test_clients_that_hang_up_leave_nothing_behind(address: Address) -> None:
    for data in (whole(BODY[:5], length=len(BODY)), whole(BODY), HEAD):
        for _ in range(10):
            with socket.create_connection(address) as connection:
                connection.sendall(data)
    time.sleep(0.05)
    assert send(address, whole(BODY)) == 200
