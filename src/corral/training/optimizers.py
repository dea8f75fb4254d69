"""Dense parameters by AdamW, embedding rows by a sparse, row-wise Adam: cost independent of table size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

_EPSILON = 1e-8  # Adam's


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


class _Adam:
    """Adam's moments of some parameters, and their update.

    Not a ``torch.optim.Optimizer``: the first of those imports torch's compiler, 75 MB and seconds that nobody uses.

    Attributes:
        parameters: what is trained.
        state: ``step``, ``exp_avg`` and ``exp_avg_sq`` by place in ``parameters``, of those that have had a gradient.
    """

    def __init__(self, parameters: Sequence[Tensor], betas: tuple[float, float]) -> None:
        self.parameters = list(parameters)
        self.state: dict[int, dict[str, Tensor]] = {}
        self._betas = betas

    def step(self, rate: float) -> None:
        """One update of every parameter that has a gradient."""
        raise NotImplementedError

    def take(self, place: int, name: str, value: Tensor) -> None:
        """Takes a state back, in the place and type that it has while training."""
        parameter = self.parameters[place]
        like = self._no_step(parameter) if name == "step" else parameter
        self.state.setdefault(place, {})[name] = value.to(device=like.device, dtype=like.dtype, copy=True)

    def _state_of(self, place: int) -> dict[str, Tensor]:
        parameter = self.parameters[place]
        if place not in self.state:
            self.state[place] = {
                "step": self._no_step(parameter),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return self.state[place]

    def _no_step(self, parameter: Tensor) -> Tensor:
        raise NotImplementedError


class _DenseAdam(_Adam):
    """torch's fused AdamW; the first ``decayed`` parameters decay."""

    def __init__(
        self, parameters: Sequence[Tensor], betas: tuple[float, float], *, decayed: int, weight_decay: float
    ) -> None:
        super().__init__(parameters, betas)
        self._groups = ((range(decayed), weight_decay), (range(decayed, len(self.parameters)), 0.0))

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update of every parameter that has a gradient."""
        beta1, beta2 = self._betas
        for places, decay in self._groups:
            used = [place for place in places if self.parameters[place].grad is not None]
            if not used:
                continue
            parameters, states = [self.parameters[place] for place in used], [self._state_of(place) for place in used]
            adamw(
                parameters,
                [cast(Tensor, parameter.grad) for parameter in parameters],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=True,
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=rate,
                weight_decay=decay,
                eps=_EPSILON,
                maximize=False,
            )
            # The fused update counts no writes, by which others know that weights have changed (KeptRows).
            torch.autograd.graph.increment_version(parameters)

    def _no_step(self, parameter: Tensor) -> Tensor:
        return torch.zeros((), device=parameter.device)


class _SparseAdam(_Adam):
    """Adam of tables with sparse gradients, as torch's ``SparseAdam``: in place, on the rows in use.

    Moments and weights are gathered and scattered as dense rows: sparse tensors cost twice the time.
    """

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update of every table that has a gradient."""
        beta1, beta2 = self._betas
        for place, table in enumerate(self.parameters):
            if table.grad is None:
                continue
            state = self._state_of(place)
            state["step"] += 1
            steps = int(state["step"])
            gradient = table.grad.coalesce()  # clipping has done it already
            rows, values = gradient.indices()[0], gradient.values()
            mean = state["exp_avg"].index_select(0, rows).lerp_(values, 1 - beta1)
            square = state["exp_avg_sq"].index_select(0, rows).mul_(beta2)
            square.addcmul_(values, values, value=1 - beta2)
            state["exp_avg"].index_copy_(0, rows, mean)
            state["exp_avg_sq"].index_copy_(0, rows, square)
            correction = math.sqrt(1 - beta2**steps) / (1 - beta1**steps)
            update = mean.div_(square.sqrt_().add_(_EPSILON))
            table.index_add_(0, rows, update, alpha=-rate * correction)

    def _no_step(self, parameter: Tensor) -> Tensor:
        return torch.zeros((), dtype=torch.int64)  # on the CPU: a number that is read at each step


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
        self._parameters = [*dense, *sparse]
        self._parts: dict[str, _Adam] = {}
        if dense:
            self._parts["dense"] = _DenseAdam(
                [*decayed, *plain], betas, decayed=len(decayed), weight_decay=weight_decay
            )
        if sparse:
            self._parts["sparse"] = _SparseAdam(sparse, betas)
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
        for part in self._parts.values():
            part.step(rate)
        self.steps += 1
        return norm

    def _clip(self) -> Tensor:
        """Clips the gradients; their joint norm before that."""
        return clip_gradients(self._parameters, self._max_norm) if self._max_norm else torch.zeros(())

    def state(self) -> dict[str, Tensor]:
        """Its state as named tensors, for a checkpoint."""
        tensors = {"steps": torch.tensor(self.steps)}
        for name, part in self._parts.items():
            for place, values in part.state.items():
                tensors |= {f"{name}.{place}.{key}": value for key, value in values.items()}
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Takes back what :meth:`state` gave."""
        self.steps = int(tensors["steps"])
        for name, part in self._parts.items():
            part.state = {}
            for key in tensors:
                if key.startswith(name + "."):
                    _, place, value = key.split(".", 2)
                    part.take(int(place), value, tensors[key])
