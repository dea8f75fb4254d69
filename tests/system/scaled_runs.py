"""``corral train`` as torchrun starts it, in forks of this process; run by test_scale.py.

``python scaled_runs.py RECIPE FOLDER`` writes the runs FOLDER/one (an ordinary process) and FOLDER/two (two workers).
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import sklearn.cluster  # imported once, not in each fork
import sklearn.metrics  # noqa: F401
import torch
import torch._dynamo
import torch.distributed as dist
import torch.distributed.checkpoint

import corral.cli.run
import corral.scale.sharded_checkpoints
from corral.cli.main import main as corral


def start(words: list[str], environment: Mapping[str, str]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        os.environ.update(environment)
        torch.set_num_threads(1)
        corral(words)
    except SystemExit as leaving:
        os._exit(int(leaving.code or 0))
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def finish(children: list[int]) -> None:
    statuses = [os.waitpid(child, 0)[1] for child in children]
    if any(statuses):
        raise SystemExit(f"a run ended with {statuses}")


def main() -> None:
    recipe, folder = sys.argv[1], Path(sys.argv[2])

    def words(run: str) -> list[str]:
        return ["train", recipe, "--run", str(folder / run), "--quiet", "--json"]

    finish([start(words("one"), {})])
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    server = os.fork()
    if server == 0:  # threads of a store must not run in this process: it forks
        store = dist.TCPStore(
            "127.0.0.1", port, None, True, timedelta(minutes=5), False, master_listen_fd=listening.detach()
        )
        store.get("never")
        os._exit(0)
    given = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    try:
        finish([start(words("two"), {**given, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"])
    finally:
        os.kill(server, 9)


if __name__ == "__main__":
    main()
