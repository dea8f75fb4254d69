"""A worker of test_launch.py: writes what it was given; of the first attempt the second worker kills itself."""

import os
import signal
import socket
import sys
from pathlib import Path

folder, given = Path(sys.argv[1]), os.environ


def answers(address: str) -> bool:
    """Whether the workers' meeting place can be reached at an address."""
    try:
        socket.create_connection((address, int(given["MASTER_PORT"])), timeout=5).close()
    except OSError:
        return False
    return True


attempt, rank = given["TORCHELASTIC_RESTART_COUNT"], given["RANK"]
words = (given["WORLD_SIZE"], given["MASTER_ADDR"], answers("127.0.0.1"), answers("127.0.0.2"))
(folder / f"{attempt}-{rank}").write_text(" ".join(map(str, words)))
(folder / f"port-{attempt}").write_text(given["MASTER_PORT"])
if attempt == "0" and rank == "1":
    os.kill(os.getpid(), signal.SIGKILL)
