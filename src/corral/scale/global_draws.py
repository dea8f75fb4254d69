"""GlobalDraws: random numbers of a share of a batch, as the whole batch would have drawn them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from corral.scale.workers import Workers

# Random operations whose rows nobody here knows: refused, since every worker would draw the same for other rows.
_UNKNOWN = {
    torch.bernoulli,
    torch.multinomial,
    torch.normal,
    torch.rand_like,
    torch.randn,
    torch.randn_like,
    torch.randint_like,
    torch.randperm,
    torch.Tensor.bernoulli_,
    torch.Tensor.multinomial,
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
    torch.Tensor.exponential_,
    torch.Tensor.random_,
    functional.alpha_dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
    functional.feature_alpha_dropout,
    functional.gumbel_softmax,
    functional.rrelu,
}


class GlobalDraws(TorchFunctionMode):
    """Inside, a random tensor is drawn for the whole batch, and this worker keeps the rows of its share.

    Generators must be in the same state on all workers, and stay so: each draws the same numbers. Which dimension is
    the batch's: of ``torch.rand`` and ``torch.randint`` with a generator (samplers: [P, N] or [3, P, N]; positions:
    [B, L]) the last but one; without a generator, and of dropout, the first. Other dimensions may be shorter in a
    share, where its longest history is: these are padded at the front, so the last places of each are kept.

    Costs the drawing of the whole batch's numbers, and a message of the shapes, a few numbers, a draw.

    Args:
        workers: who share the batch.
    """

    def __init__(self, workers: Workers) -> None:
        super().__init__()
        self._workers = workers

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Intercepts the random operations; lets all others pass."""
        kwargs = dict(kwargs or {})
        if any(func is known for known in (torch.rand, torch.randint)):
            *before, shape = args
            if not isinstance(shape, (tuple, list)):
                raise NotImplementedError(f"{func.__name__}{args}: give the shape as one tuple, last")
            rows = len(shape) - 2 if kwargs.get("generator") is not None else 0
            every = list(range(len(shape)))
            return self._mine(lambda whole, order: func(*before, whole, **kwargs), tuple(shape), rows, every)
        if func is functional.dropout:
            return self._dropout(*args, **kwargs)
        if func in _UNKNOWN or kwargs.get("dropout_p"):
            raise NotImplementedError(
                f"{func.__name__}: training on several workers knows torch.rand, torch.randint and dropout alone"
            )
        return func(*args, **kwargs)

    def _dropout(self, values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0.0:
            return values

        def keep(shape: tuple[int, ...], order: list[int]) -> Tensor:
            drawn = torch.empty_permuted(shape, order, dtype=values.dtype, device=values.device)
            return drawn.bernoulli_(1 - p)

        # As torch computes it on the CPU, in the order of memory: the same bits as one process.
        strides = values.stride()
        order = sorted(range(values.ndim), key=lambda dimension: -strides[dimension])
        return values * self._mine(keep, tuple(values.shape), 0, order).div(1 - p)

    def _mine(
        self,
        draw: Callable[[tuple[int, ...], list[int]], Tensor],
        shape: tuple[int, ...],
        rows: int,
        order: list[int],
    ) -> Tensor:
        """This worker's part of what ``draw`` gives for the whole batch.

        Args:
            draw: from a shape, and the order of its dimensions in memory.
            shape: of the part.
            rows: the dimension of the batch's rows.
            order: as it seems here; strides of one row or none say little, so the largest share's is taken.
        """
        workers = self._workers
        every, orders = torch.tensor(workers.numbers(*shape, *order)).view(workers.size, 2, len(shape)).unbind(1)
        whole = every.amax(0)
        whole[rows] = every[:, rows].sum()
        drawn = draw(tuple(whole.tolist()), orders[int(every[:, rows].argmax())].tolist())
        first = int(every[: workers.rank, rows].sum())
        for dimension, size in enumerate(shape):
            start = first if dimension == rows else drawn.shape[dimension] - size
            drawn = drawn.narrow(dimension, start, size)
        return drawn
