"""run_workers: a command as several workers on this machine, by torch's elastic agent, over the loopback address."""

from __future__ import annotations

import functools
import os
import socket
import sys
from collections.abc import Sequence
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import (
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.api import RendezvousHandler
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

_ADDRESS, _NAME = "127.0.0.1", "corral-loopback"


class _Loopback(RendezvousHandler):
    """One machine meets itself. Torch's own rendezvous listen on every interface; these stores on 127.0.0.1 alone."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    def get_backend(self) -> str:
        return _NAME

    @property
    def use_agent_store(self) -> bool:
        """The workers meet at the agent's store."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """A new store for each start: in the last one's the dead still say where they listen."""
        listening = socket.create_server((_ADDRESS, 0))
        port = listening.getsockname()[1]
        store = dist.TCPStore(
            _ADDRESS,
            port,
            None,
            True,
            timedelta(minutes=10),
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(_ADDRESS, port))

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        """There is nobody else to tell."""

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._run_id

    def shutdown(self) -> bool:
        return True


def _meet(parameters: RendezvousParameters) -> RendezvousHandler:
    return _Loopback(parameters.run_id)


@functools.cache
def _register() -> None:
    rendezvous_handler_registry.register(_NAME, _meet)


def run_workers(words: Sequence[str], *, workers: int, max_restarts: int) -> None:
    """Runs ``python WORDS`` as so many workers until all have ended well.

    Where one dies, the others are ended and all start again, at most ``max_restarts`` times. Each is given an equal
    part of the cores, unless OMP_NUM_THREADS says otherwise.

    Raises:
        ValueError: they failed more often than that.
        KeyboardInterrupt: this process was told to end; so were they.
    """
    _register()
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // workers, 1)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=workers,
        run_id=f"corral-{os.getpid()}",
        rdzv_backend=_NAME,
        local_addr=_ADDRESS,
        max_restarts=max_restarts,
        monitor_interval=0.2,
    )
    try:
        elastic_launch(config, sys.executable)(*words)
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        raise ValueError(
            f"the workers failed, after {max_restarts} restarts (exit codes by rank: {codes}); what they said stands "
            "above. The same command goes on from the last checkpoint"
        ) from None
    except SignalException as error:
        raise KeyboardInterrupt from error
