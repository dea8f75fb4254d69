"""``corral serve`` in children of this process, killed at random moments; run by test_kill_serve.py.

``python killed_server.py BUNDLE EVENTS KILLS SEED`` prints a JSON object: how many events were acknowledged, and which
of them a later server did not know. A child is a fork: importing torch again would take longest.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from importlib import import_module
from itertools import count
from typing import Any

from corral.cli.main import main as corral

for module in ("torch", "uvicorn", "corral.cli.run", "corral.serving.http.app"):
    import_module(module)  # what every child would import by itself

WRITERS = 3
# No bundle of the tests knows these users: without live events they get popular items.
FIRST_USER = 1_000_000


def start(bundle: str, events: str, port: int) -> int:
    """``corral serve`` in a child; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        corral(["serve", bundle, "--events", events, "--port", str(port)])
    finally:
        os._exit(1)


def ask(port: int, method: str, path: str, body: object = None) -> Any:
    """The answer; raises OSError or HTTPException where there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"content-type": "application/json"})
        answer = connection.getresponse()
        contents = answer.read()
    finally:
        connection.close()
    assert answer.status == 200, (path, answer.status, contents)
    return json.loads(contents)


def wait_until_ready(port: int, child: int) -> None:
    for _ in range(2_000):
        try:
            ask(port, "GET", "/ready")
        except OSError:
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "the server ended"
            time.sleep(0.01)
        else:
            return
    raise SystemExit("the server does not get ready")


def unknown(port: int, users: list[int]) -> list[int]:
    """Those for whom the server knows no event."""
    lists = []
    for first in range(0, len(users), 500):
        asked = [{"user_id": user} for user in users[first : first + 500]]
        lists += ask(port, "POST", "/v1/recommend", {"users": asked, "k": 1})["lists"]
    return [one["user_id"] for one in lists if one["fallback"]]


def write(port: int, users: Any, time_of_event: int, acknowledged: list[int]) -> None:
    """Events, each of a user of its own, until the server is gone."""
    while True:
        batch = [next(users) for _ in range(3)]
        events = [{"user_id": user, "item_id": 1, "time": time_of_event} for user in batch]
        try:
            ask(port, "POST", "/v1/events", {"events": events})
        except (OSError, http.client.HTTPException):
            return
        acknowledged.extend(batch)


def main() -> None:
    bundle, events, kills, chance = sys.argv[1], sys.argv[2], int(sys.argv[3]), random.Random(int(sys.argv[4]))
    users, acknowledged, lost = count(FIRST_USER), [], set[int]()
    for kill in range(kills + 1):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        child = start(bundle, events, port)
        wait_until_ready(port, child)
        lost |= set(unknown(port, acknowledged))
        assert unknown(port, [FIRST_USER - 1]) == [FIRST_USER - 1], "fallback says nothing"
        if kill < kills:
            later = ask(port, "GET", "/v1/bundle")["latest_event"] + 1
            writers = [threading.Thread(target=write, args=(port, users, later, acknowledged)) for _ in range(WRITERS)]
            for writer in writers:
                writer.start()
            time.sleep(chance.uniform(0.01, 0.4))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for writer in writers:
            writer.join()
    print(json.dumps({"kills": kills, "acknowledged": len(acknowledged), "lost": sorted(lost)}))


if __name__ == "__main__":
    main()
