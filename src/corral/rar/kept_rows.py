"""KeptRows: what is computed of every row of a table of users or items, kept while no weight changes.

Shape letters: n rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

# Rows computed at a time.
_ROWS = 1 << 14


class _Steps:
    """Steps of all optimisers of this process, since someone first asked: fused ones count no writes to tensors."""

    def __init__(self) -> None:
        self.count = 0
        register_optimizer_step_post_hook(self._one_more)

    def _one_more(self, *_: object) -> None:
        self.count += 1


@cache
def _steps() -> _Steps:
    return _Steps()


@dataclass(frozen=True)
class _State:
    """Tensors as they were. An alias holds the memory, so that no other tensor can have its address meanwhile."""

    tensors: tuple[Tensor, ...]
    aliases: tuple[Tensor, ...]
    versions: tuple[int, ...]
    around: tuple[object, ...]

    @classmethod
    def of(cls, tensors: tuple[Tensor, ...]) -> _State:
        aliases = tuple(tensor.detach() for tensor in tensors)
        return cls(tensors, aliases, tuple(tensor._version for tensor in tensors), _around(tensors))

    def holds(self, tensors: tuple[Tensor, ...]) -> bool:
        """Whether these are the same tensors, in the same memory, and nothing was written to them since."""
        return (
            len(tensors) == len(self.tensors)
            and all(one is other for one, other in zip(tensors, self.tensors, strict=True))
            and all(one._version == version for one, version in zip(tensors, self.versions, strict=True))
            and all(one.data_ptr() == alias.data_ptr() for one, alias in zip(tensors, self.aliases, strict=True))
            and self.around == _around(tensors)
        )


class KeptRows:
    """Vectors of all rows, made when it pays and dropped when any weight they came from was written to.

    Made as soon as as many rows were asked for, since a weight last changed, as there are (or by ``keep``), so that at
    most twice the work is done that an unkept table would need; nothing is made while weights change from call to
    call. Whether they changed is asked at **every** use, of torch's own count of writes to each parameter and buffer:
    ``load_state_dict``, ``copy_``, assignments to rows, moves to another device or type, and new tensors in a
    parameter's place are all seen; and so is a step of any optimiser, of these weights or others. Writes through
    ``tensor.data`` are not counted by torch: call ``forget`` after one.

    Args:
        limit: bytes; larger tables are not made by themselves.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._too_large = False
        self._asked: tuple[_State, int] | None = None
        self._kept: tuple[_State, tuple[Tensor, ...]] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> KeptRows:
        return KeptRows(self.limit)

    def forget(self) -> None:
        """Drops what is kept."""
        self._asked = self._kept = None

    def of(
        self, modules: Iterable[nn.Module], rows: int, asked: int, make: Callable[[Tensor], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...] | None:
        """The vectors of all rows, each [rows, ...], or None where they are not kept yet.

        Args:
            modules: whose parameters and buffers the vectors come from.
            rows: how many there are.
            asked: rows wanted now.
            make: rows [n], int64 -> vectors, each [n, ...].
        """
        tensors = _tensors(modules)
        if tensors is None:
            return None
        if self._kept is not None:
            state, vectors = self._kept
            if state.holds(tensors):
                return vectors
            self._kept = None
        state, before = self._asked or (None, 0)
        if state is None or not state.holds(tensors):
            state, before = _State.of(tensors), 0
        self._asked = state, before + asked
        if before + asked < rows or self._too_large:
            return None
        one = make(torch.zeros(1, dtype=torch.int64, device=tensors[0].device))
        self._too_large = rows * sum(vectors.numel() * vectors.element_size() for vectors in one) > self.limit
        return None if self._too_large else self._make(state, tensors[0].device, rows, make)

    def keep(self, modules: Iterable[nn.Module], rows: int, make: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        """Makes them now, whatever their size; see ``of``."""
        tensors = _tensors(modules)
        if tensors is None:
            raise ValueError("parameters made in inference mode tell nobody when they change, so nothing can be kept")
        self._make(_State.of(tensors), tensors[0].device, rows, make)

    def _make(
        self, state: _State, device: torch.device, rows: int, make: Callable[[Tensor], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        with torch.no_grad():
            parts = [make(part) for part in torch.arange(rows, device=device).split(_ROWS)]
        vectors = tuple(torch.cat(column) for column in zip(*parts, strict=True))
        self._asked, self._kept = None, (state, vectors)
        return vectors


def _tensors(modules: Iterable[nn.Module]) -> tuple[Tensor, ...] | None:
    """Parameters and buffers, or None where torch does not count writes to them."""
    found = []
    for module in modules:
        for part in module.modules():
            found += [one for one in (*part._parameters.values(), *part._buffers.values()) if one is not None]
    return None if any(one.is_inference() for one in found) else tuple(found)


def _around(tensors: tuple[Tensor, ...]) -> tuple[object, ...]:
    """What else the vectors depend on: optimisers' steps, and what autocast would make of products."""
    kind = tensors[0].device.type
    cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return _steps().count, cast
