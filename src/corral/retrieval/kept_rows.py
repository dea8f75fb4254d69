"""KeptRows: what is computed of every row of a table of users or items, kept while no weight changes.

Shape letters: n rows.
"""

from __future__ import annotations

from collections.abc import Callable
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
    """Modules as they were: their parts, and the memory of their tensors with the number of writes to it.

    Attributes:
        modules: the outermost ones.
        parts: every submodule, parameter and buffer, with the dictionary that holds it and its name there.
        tensors: parameters and buffers.
        aliases: of their memory, so that no other tensor can have its address meanwhile.
        marks: address and number of writes of each tensor.
        around: see ``_around``.
    """

    modules: tuple[nn.Module, ...]
    parts: tuple[tuple[dict[str, Any], str, object], ...]
    tensors: tuple[Tensor, ...]
    aliases: tuple[Tensor, ...]
    marks: tuple[tuple[int, int], ...]
    around: tuple[object, ...]

    @classmethod
    def of(cls, modules: tuple[nn.Module, ...]) -> _State:
        held = [one for module in modules for part in module.modules() for one in _dictionaries(part)]
        parts = tuple((one, name, value) for one in held for name, value in one.items())
        tensors = tuple(value for _, _, value in parts if isinstance(value, Tensor))
        aliases = tuple(tensor.detach() for tensor in tensors)
        marks = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)
        return cls(modules, parts, tensors, aliases, marks, _around(tensors[0].device))

    def holds(self, modules: tuple[nn.Module, ...]) -> bool:
        """Whether these are the same modules, of the same parts in the same memory, and nothing was written there."""
        for module, before in zip(modules, self.modules, strict=True):
            if module is not before:
                return False
        for held, name, value in self.parts:
            if held.get(name) is not value:
                return False
        for tensor, (address, version) in zip(self.tensors, self.marks, strict=True):
            if tensor._version != version or tensor.data_ptr() != address:
                return False
        return self.around == _around(self.tensors[0].device)


def _dictionaries(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return module._parameters, module._buffers, module._modules


def _around(device: torch.device) -> tuple[object, ...]:
    """What else vectors depend on: optimisers' steps, and what autocast would make of products."""
    cast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    return _steps().count, cast


class KeptRows:
    """Vectors of all rows, made when it pays and dropped when any weight they came from was written to.

    Made as soon as as many rows were asked for, since a weight last changed, as there are (or by ``keep``): about twice
    the work at most that is done without them, also where weights change from call to call. Whether they changed is
    asked at **every** use, of torch's own count of writes to each parameter and buffer:
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
        self, modules: tuple[nn.Module, ...], rows: int, asked: int, make: Callable[[Tensor], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...] | None:
        """The vectors of all rows, each [rows, ...], or None where they are not kept yet.

        Args:
            modules: whose parameters and buffers the vectors come from.
            rows: how many there are.
            asked: rows wanted now.
            make: rows [n], int64 -> vectors, each [n, ...].
        """
        if (vectors := self.still(modules)) is not None:
            return vectors
        known, before = self._asked or (None, 0)
        if known is None or not known.holds(modules):
            known, before = _state(modules), 0
        if known is None:
            return None
        self._asked = known, before + asked
        if before + asked < rows or self._too_large:
            return None
        one = make(torch.zeros(1, dtype=torch.int64, device=known.tensors[0].device))
        self._too_large = rows * sum(vectors.numel() * vectors.element_size() for vectors in one) > self.limit
        return None if self._too_large else self._make(known, rows, make)

    def still(self, modules: tuple[nn.Module, ...]) -> tuple[Tensor, ...] | None:
        """What is kept; None where nothing is, or a weight of the modules was written to since."""
        if self._kept is not None and not self._kept[0].holds(modules):
            self._kept = None
        return None if self._kept is None else self._kept[1]

    def keep(self, modules: tuple[nn.Module, ...], rows: int, make: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        """Makes them now, whatever their size; see ``of``."""
        state = _state(modules)
        if state is None:
            raise ValueError("parameters made in inference mode tell nobody when they change, so nothing can be kept")
        self._make(state, rows, make)

    def _make(self, state: _State, rows: int, make: Callable[[Tensor], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        with torch.no_grad():
            parts = [make(part) for part in torch.arange(rows, device=state.tensors[0].device).split(_ROWS)]
        vectors = tuple(torch.cat(column) for column in zip(*parts, strict=True))
        self._asked, self._kept = None, (state, vectors)
        return vectors


def _state(modules: tuple[nn.Module, ...]) -> _State | None:
    """The modules as they are, or None where torch does not count writes to their tensors."""
    tensors = [one for module in modules for one in (*module.parameters(), *module.buffers())]
    return None if any(one.is_inference() for one in tensors) else _State.of(modules)
