"""A device beside the CPU for machines that have none: the CPU's memory, refusing what a GPU refuses.

A tensor of this device holds one of the CPU and says that it is elsewhere; operators run on what it holds, after the
checks of a GPU: all tensors on one device, but for single numbers in elementwise operators and for indices; random
numbers by a generator of the same device; no numpy. So the same seeds give the CPU's results, to rounding.
Importing this changes torch for the whole process: import it in processes of one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "other"


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
DEVICE = torch.device(NAME, 0)
_aten = torch.ops.aten
_INDEXED = {
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
}
_MOVES = {_aten._to_copy.default, _aten.copy_.default}


class OtherTensor(torch.Tensor):
    """A tensor of the other device: ``held``, and the claim that it is elsewhere."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OtherTensor:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=DEVICE,
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"other({self.held!r})"

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operator, args, kwargs or {})


class OtherDevice(TorchDispatchMode):
    """Within it tensors can be made on the device."""

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operator, args, kwargs or {})


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OtherTensor) else value


def _run(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """An operator on what its tensors hold; what it gives is on the device where a GPU's would be."""
    tensors = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    away = any(isinstance(value, OtherTensor) for value in tensors)
    if operator not in _MOVES:
        _check(operator, args, tensors)
    wanted = kwargs.get("device")
    if operator is _aten.copy_.default:
        away = isinstance(args[0], OtherTensor)
    elif wanted is not None:
        away = torch.device(wanted).type == NAME
    if away and kwargs.get("generator") is not None:
        raise RuntimeError(f"{operator}: the generator is of the CPU")
    plain = {name: pytree.tree_map(_held, value) for name, value in kwargs.items()}
    if away and wanted is not None:
        plain["device"] = torch.device("cpu")
    out = _KERNELS.get(operator, operator)(*pytree.tree_map(_held, args), **plain)
    # What was written in place is given back as the tensor that it was.
    written = [value for value in pytree.tree_leaves(_written(operator, args, kwargs)) if isinstance(value, Tensor)]
    for value in written:
        if isinstance(value, OtherTensor) and value.shape != value.held.shape:
            with no_dispatch():
                value.as_strided_(value.held.shape, value.held.stride(), value.held.storage_offset())
    same = {id(_held(value)): value for value in written}

    def given(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return same.get(id(value), OtherTensor(value) if away else value)

    return pytree.tree_map(given, out)


def _written(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The arguments that an operator writes to."""
    return [
        args[place] if place < len(args) else kwargs.get(argument.name)
        for place, argument in enumerate(operator._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


def _check(operator: Any, args: Sequence[Any], tensors: Sequence[Tensor]) -> None:
    """RuntimeError for tensors of several devices, where CUDA raises one."""
    here = [value for value in tensors if not isinstance(value, OtherTensor)]
    if not here or len(here) == len(tensors):
        return
    if operator in _INDEXED:
        given = [args[0], *args[2:3]]
        fine = isinstance(args[0], OtherTensor) and all(isinstance(v, OtherTensor) or v.dim() == 0 for v in given)
    else:
        fine = torch.Tag.pointwise in operator.tags and all(value.dim() == 0 for value in here)
    if not fine:
        places = ", ".join(f"{value.device} {tuple(value.shape)}" for value in tensors)
        raise RuntimeError(f"{operator}: expected all tensors on one device, found {places}")


def _gru_cell(
    from_input: Tensor,
    from_state: Tensor,
    state: Tensor,
    input_bias: Tensor | None = None,
    state_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What other devices have one operator for, and the CPU has not: the next state, and what the backward reads."""
    one = from_input if input_bias is None else from_input + input_bias
    two = from_state if state_bias is None else from_state + state_bias
    (reset, update, new), (reset_too, update_too, carried) = one.chunk(3, 1), two.chunk(3, 1)
    reset, update = torch.sigmoid(reset + reset_too), torch.sigmoid(update + update_too)
    new = torch.tanh(new + reset * carried)
    return new + update * (state - new), torch.cat((reset, update, new, state, carried), 1)


def _gru_cell_backward(grad: Tensor, kept: Tensor, has_bias: bool) -> tuple[Tensor | None, ...]:
    reset, update, new, state, carried = kept.chunk(5, 1)
    of_update = grad * (state - new) * (1 - update) * update
    of_new = grad * (1 - update) * (1 - new**2)
    of_reset = of_new * carried * (1 - reset) * reset
    one = torch.cat((of_reset, of_update, of_new), 1)
    two = torch.cat((of_reset, of_update, of_new * reset), 1)
    biases = (one.sum(0), two.sum(0)) if has_bias else (None, None)
    return one, two, grad * update, *biases


_KERNELS: dict[Any, Callable[..., Any]] = {
    _aten._thnn_fused_gru_cell.default: _gru_cell,
    _aten._thnn_fused_gru_cell_backward.default: _gru_cell_backward,
}


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return OtherTensor(torch.empty_strided(size, stride, dtype=dtype))


def _empty(size: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return OtherTensor(torch.empty(size, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    _held(target).copy_(_held(source))
    return target


# torch.tensor(values, device=...) leaves modes out.
_LIBRARY = torch.library.Library("aten", "IMPL")
_LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
_LIBRARY.impl("empty.memory_format", _empty, "PrivateUse1")
_LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")
_asarray = torch.asarray


def _asarray_without_modes(*args: Any, **kwargs: Any) -> Tensor:
    """safetensors reads files through it, and a mode does not know storages."""
    with _disable_current_modes():
        return _asarray(*args, **kwargs)


torch.asarray = _asarray_without_modes
