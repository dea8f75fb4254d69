"""ray_train: a training on several workers that Ray places, starts and, where one dies, starts again."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from corral.scale.workers import Workers, keep_to_loopback

# Ray's own notes, below the run; checkpoints are not among them.
_NOTES = "ray"


def ray_train(
    train: Callable[[Workers], None],
    directory: Path,
    *,
    workers: int,
    max_restarts: int,
    timeout_seconds: float,
    cuda: bool = False,
) -> None:
    """Calls ``train`` on so many workers of Ray Train, inside ``local_ray``, until all have ended well.

    Where one dies, the others are ended and all start again, at most ``max_restarts`` times.

    Args:
        train: what each worker does; a function that Ray can send to them.
        directory: of the run; all machines see it.
        workers: how many.
        max_restarts: how often.
        timeout_seconds: how long a message may take; after that its sender counts as dead.
        cuda: a GPU each, talking by nccl; else a processor each, talking by gloo.

    Raises:
        ValueError: they failed more often than that; the message holds the first failure's.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    trainer = DataParallelTrainer(
        _loop,
        train_loop_config={
            "train": train,
            "cuda": cuda,
            "alone": "RAY_ADDRESS" not in os.environ,
            "timeout": timedelta(seconds=timeout_seconds),
        },
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=cuda),
        run_config=RunConfig(
            name=_NOTES, storage_path=str(directory.resolve()), failure_config=FailureConfig(max_failures=max_restarts)
        ),
    )
    try:
        with redirect_stdout(sys.stderr):  # where Ray says that a worker died; the other is the result's
            trainer.fit()
    except TrainingFailedError as error:
        raise ValueError(
            f"the workers failed, after {max_restarts} restarts: {error}\n"
            "The same command goes on from the last checkpoint"
        ) from None
    finally:
        shutil.rmtree(directory / _NOTES, ignore_errors=True)


def _loop(config: dict[str, Any]) -> None:
    """One worker. It meets the others at a store of worker 0 that listens on one address alone; torch's own, which
    Ray's trainer for torch uses, listens on every interface."""
    from ray.train import get_context

    context = get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    device = torch.device("cuda", torch.cuda.current_device()) if config["cuda"] else torch.device("cpu")
    if config["alone"] and not config["cuda"]:
        keep_to_loopback()
    backend, timeout = "nccl" if config["cuda"] else "gloo", config["timeout"]
    dist.init_process_group(backend, store=_store(rank, size, timeout), rank=rank, world_size=size, timeout=timeout)
    try:
        config["train"](Workers(device))
    finally:
        dist.destroy_process_group()


def _store(rank: int, size: int, timeout: timedelta) -> dist.TCPStore:
    """Where all meet: made by worker 0, at the address by which Ray knows its machine."""
    from ray.train.collective import broadcast_from_rank_zero
    from ray.util import get_node_ip_address

    if rank == 0:
        address = get_node_ip_address()
        listening = socket.create_server((address, 0))
        port = listening.getsockname()[1]
        store = dist.TCPStore(
            address, port, size, True, timeout, wait_for_workers=False, master_listen_fd=listening.detach()
        )
        broadcast_from_rank_zero((address, port))
        return store
    address, port = broadcast_from_rank_zero(None)
    return dist.TCPStore(address, port, size, False, timeout)
