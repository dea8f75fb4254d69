"""Workers as forks of a process that has imported everything and computed nothing: torch is imported once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import sklearn.cluster  # every refresh of MIDX imports it, in each fork
import sklearn.metrics  # noqa: F401
import torch
import torch._dynamo  # every optimizer imports it
import torch.distributed as dist

from corral.scale.workers import Workers


def in_workers(number: int, folder: Path, work: Callable[[Workers], None]) -> None:
    """Runs ``work`` on so many workers over gloo, and waits; SystemExit if one fails."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    meeting = folder / f"meeting-{number}-{os.urandom(4).hex()}"
    children = []
    for rank in range(number):
        child = os.fork()
        if child == 0:
            try:
                torch.set_num_threads(1)
                dist.init_process_group(
                    "gloo", store=dist.FileStore(str(meeting), number), rank=rank, world_size=number
                )
                work(Workers())
                dist.destroy_process_group()
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    if any(statuses):
        raise SystemExit(f"a worker of {number} failed")


def alone(work: Callable[[], None]) -> None:
    """The same for one ordinary process."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the ordinary process failed")
