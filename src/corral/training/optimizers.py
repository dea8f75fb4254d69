"""Dense parameters by AdamW, embedding rows by a sparse, row-wise Adam: cost independent of table size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def warmup_cosine(warmup_steps: int, total_steps: int, floor: float = 0.0) -> Callable[[int], float]:
    """A schedule: linear from 0 to 1 over ``warmup_steps``, then a half cosine down to ``floor``."""

    def scale(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))

    return scale


def warmup_constant(warmup_steps: int = 0) -> Callable[[int], float]:
    """A schedule: linear from 0 to 1 over ``warmup_steps``, then 1."""
    return lambda step: min((step + 1) / warmup_steps, 1.0) if warmup_steps else 1.0


def gradient_values(parameters: Iterable[Tensor]) -> list[Tensor]:
    """The numbers of all gradients, to be changed in place; of sparse ones those of the rows in use."""
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            # Repeated rows must be summed before they are measured.
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad.values())
        else:
            values.append(parameter.grad)
    return values


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scales all gradients, dense and sparse together, to a joint norm of at most ``max_norm``.

    Returns:
        The joint norm before scaling, a scalar.
    """
    values = gradient_values(parameters)
    if not values:
        return torch.zeros(())
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(value) for value in values]))
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for value in values:
        value.mul_(scale)
    return norm


class _SparseAdam(torch.optim.SparseAdam):
    """torch's ``SparseAdam`` with its update in place on the rows in use; the state is the same.

    Moments and weights are gathered and scattered as dense rows: sparse tensors cost twice the time.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every table that has a gradient."""
        for group in self.param_groups:
            (beta1, beta2), epsilon = group["betas"], group["eps"]
            for table in group["params"]:
                if table.grad is None:
                    continue
                state = self.state[table]
                if not state:
                    state["step"] = 0
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
                state["step"] += 1
                gradient = table.grad.coalesce()  # clipping has done it already
                rows, values = gradient.indices()[0], gradient.values()
                mean = state["exp_avg"].index_select(0, rows).lerp_(values, 1 - beta1)
                square = state["exp_avg_sq"].index_select(0, rows).mul_(beta2)
                square.addcmul_(values, values, value=1 - beta2)
                state["exp_avg"].index_copy_(0, rows, mean)
                state["exp_avg_sq"].index_copy_(0, rows, square)
                correction = math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
                update = mean.div_(square.sqrt_().add_(epsilon))
                table.index_add_(0, rows, update, alpha=-group["lr"] * correction)


class RowWiseAdam:
    """Adam over all parameters of a module; tables with sparse gradients update only the rows in use.

    Weight decay (decoupled) goes to dense matrices only: not to tables, biases or norms. Where these are plain
    parameters with two axes, their module lists them by ``not_decayed()``.

    Args:
        module: its parameters are trained; an ``nn.Embedding(sparse=True)`` is a sparse table.
        learning_rate: of the schedule's 1.
        weight_decay: for dense matrices.
        betas: Adam's.
        max_norm: joint gradient norm is clipped to it; 0 is off.
        schedule: factor of the learning rate at each step.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        max_norm: float = 5.0,
        schedule: Callable[[int], float] | None = None,
    ) -> None:
        tables = [m.weight for m in module.modules() if isinstance(m, nn.Embedding)]
        sparse_ids = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding) and m.sparse}
        table_ids = {id(weight) for weight in tables}
        # From the parameters, which name a table that two modules share once.
        sparse: list[Tensor] = [p for p in module.parameters() if id(p) in sparse_ids]
        dense = [p for p in module.parameters() if p.requires_grad and id(p) not in sparse_ids]
        kept = table_ids | {id(p) for m in module.modules() for p in getattr(m, "not_decayed", list)()}
        decayed = [p for p in dense if p.ndim > 1 and id(p) not in kept]
        plain = [p for p in dense if p.ndim <= 1 or id(p) in kept]
        groups = [
            {"params": params, "weight_decay": decay}
            for params, decay in ((decayed, weight_decay), (plain, 0.0))
            if params
        ]
        self._parameters = [*dense, *sparse]
        self._parts: dict[str, torch.optim.Optimizer] = {}
        if groups:
            self._parts["dense"] = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)
        if sparse:
            self._parts["sparse"] = _SparseAdam(sparse, lr=learning_rate, betas=betas)
        self._learning_rate, self._max_norm = learning_rate, max_norm
        self._schedule = schedule or warmup_constant()
        self.steps = 0

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    def step(self) -> Tensor:
        """Clips, updates, advances the schedule; returns the gradient norm before clipping."""
        norm = self._clip()
        rate = self._learning_rate * self._schedule(self.steps)
        for optimizer in self._parts.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        self.steps += 1
        return norm

    def _clip(self) -> Tensor:
        """Clips the gradients; their joint norm before that."""
        return clip_gradients(self._parameters, self._max_norm) if self._max_norm else torch.zeros(())

    def state(self) -> dict[str, Tensor]:
        """Its state as named tensors, for a checkpoint."""
        tensors = {"steps": torch.tensor(self.steps)}
        for part, optimizer in self._parts.items():
            for index, values in optimizer.state_dict()["state"].items():
                for name, value in values.items():
                    tensors[f"{part}.{index}.{name}"] = torch.as_tensor(value)
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Takes back what :meth:`state` gave."""
        self.steps = int(tensors["steps"])
        for part, optimizer in self._parts.items():
            whole = optimizer.state_dict()
            state: dict[int, dict[str, Tensor | int]] = {}
            for key, value in tensors.items():
                if key.startswith(part + "."):
                    _, index, name = key.split(".", 2)
                    # SparseAdam counts its steps in a plain int, AdamW in a tensor.
                    state.setdefault(int(index), {})[name] = (
                        int(value) if part == "sparse" and name == "step" else value
                    )
            whole["state"] = state
            optimizer.load_state_dict(whole)
