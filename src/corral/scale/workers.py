"""Workers: the processes of one training, and all that they say to each other, counted in bytes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Sum(torch.autograd.Function):
    """The sum of all workers' tensors: each has its part in all of their losses."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, workers: Workers) -> Tensor:
        ctx.workers = workers
        return workers.sum(part.clone())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.workers.sum(grads[0].clone(memory_format=torch.contiguous_format)), None


class _Gather(torch.autograd.Function):
    """The rows of all workers; the gradients of a worker's rows are added up over all of them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, workers: Workers) -> Tensor:
        parts = workers.gather(rows.to(workers.device))
        first = sum(len(part) for part in parts[: workers.rank])
        ctx.workers, ctx.own = workers, slice(first, first + len(rows))
        return torch.cat(parts).to(rows.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.workers.sum(grads[0].clone(memory_format=torch.contiguous_format))[ctx.own], None


class Workers:
    """This process among the others; each method that talks is called by all of them, in the same order.

    Attributes:
        rank: this one's number, from 0.
        size: W, how many there are.
        device: where its tensors live; messages too.
        sent: bytes that this worker has sent to others so far, by collective, as the usual algorithms send them: an
            all-reduce is a ring, 2 (W - 1) / W of its payload; a gather sends a payload to W - 1 others.
        calls: collectives so far, by name.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), torch.device(device)
        self.sent: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __deepcopy__(self, memo: object) -> Workers:
        """A process group cannot be copied: a copied model talks to the same workers."""
        return self

    @property
    def first(self) -> bool:
        """Whether this is the worker that writes and prints."""
        return self.rank == 0

    def blocks(self, count: int) -> list[tuple[int, int]]:
        """First and stop of each worker's block of ``count`` rows, as ``DTensor``'s ``Shard(0)`` cuts them."""
        size = -(-count // self.size)
        return [(min(rank * size, count), min((rank + 1) * size, count)) for rank in range(self.size)]

    def share(self, count: int) -> slice:
        """This worker's rows of a batch of ``count``: shares differ by at most one row; some may be empty."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def total(self, number: int) -> int:
        """The sum of every worker's number."""
        return int(self.sum(torch.tensor([number], device=self.device)))

    def largest(self, number: int) -> int:
        """The largest of them."""
        return max(self.numbers(number))

    def before(self, number: int) -> int:
        """The sum of the numbers of the workers before this one."""
        return sum(self.numbers(number)[: self.rank])

    def numbers(self, *own: int) -> list[int]:
        """Every worker's numbers, as many from each, one worker after the other."""
        return torch.cat(self._gather_equal(torch.tensor(own, device=self.device))).tolist()

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of every worker's tensor, in place."""
        self._count("all-reduce", 2 * (self.size - 1) * tensor.nbytes // self.size)
        dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Every worker's tensor; they may differ in the first dimension."""
        lengths = self.numbers(len(tensor))
        longest = max(lengths)
        padded = tensor.new_zeros(longest, *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = self._gather_equal(padded)
        return [part[:length] for part, length in zip(parts, lengths, strict=True)]

    def summed(self, part: Tensor) -> Tensor:
        """See ``OtherShares``."""
        return cast(Tensor, _Sum.apply(part, self))

    def gathered(self, rows: Tensor) -> Tensor:
        """See ``OtherShares``."""
        return cast(Tensor, _Gather.apply(rows, self))

    def exchange(self, tensor: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        """All-to-all: the first ``sent[0]`` rows go to worker 0, and so on; rows in the order of their senders.

        Args:
            tensor: [sum of sent, ...].
            sent: rows for each worker.
            received: rows from each worker; its ``sent`` for this one.
        """
        result = tensor.new_empty(sum(received), *tensor.shape[1:])
        row = tensor[:1].nbytes if len(tensor) else 0
        self._count("all-to-all", row * (sum(sent) - sent[self.rank]))
        dist.all_to_all_single(result, tensor.contiguous(), list(received), list(sent))
        return result

    def wait(self) -> None:
        """Until all are here."""
        dist.barrier()

    def _count(self, collective: str, bytes_sent: int) -> None:
        self.sent[collective] += bytes_sent
        self.calls[collective] += 1

    def _gather_equal(self, tensor: Tensor) -> list[Tensor]:
        self._count("all-gather", (self.size - 1) * tensor.nbytes)
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return parts

    @contextmanager
    def one_by_one(self) -> Iterator[None]:
        """Worker 0 does the block first, then the others: what it left behind need not be made twice."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


def restarts() -> int:
    """How often the workers have been started again, after one of them died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def launched() -> bool:
    """Whether torchrun, or ``corral train`` with ``scale.workers``, started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ


def keep_to_loopback() -> None:
    """Before the workers meet: gloo takes the loopback interface, unless GLOO_SOCKET_IFNAME says otherwise."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if os.path.exists("/sys/class/net/lo") else "lo0")


@contextmanager
def joined_workers(device: torch.device | str, *, timeout_seconds: float) -> Iterator[Workers]:
    """The workers that torchrun's environment names, this process among them.

    On CUDA they talk by nccl, each on the device of its local rank; else by gloo, on the loopback interface where all
    are on this machine.
    """
    device = torch.device(device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]:
        keep_to_loopback()
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
    try:
        yield Workers(device)
    finally:
        dist.destroy_process_group()
