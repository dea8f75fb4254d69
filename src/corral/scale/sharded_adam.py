"""ShardedAdam: ``RowWiseAdam`` where tables are cut by row and everything else is copied on every worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from corral.scale.sharded_embedding import ShardedEmbedding
from corral.scale.workers import Workers
from corral.training.optimizers import RowWiseAdam, gradient_values


class ShardedAdam(RowWiseAdam):
    """Adds up the gradients of copied parameters, clips by the norm over all workers, then updates as one process.

    Each worker's loss is its part of the whole, so gradients are added, not averaged. Those of sharded tables are
    complete where they are: their lookups have added them.

    Args:
        module: its parameters are trained; its id tables are ``ShardedEmbedding``s.
        workers: who train it.
        learning_rate, weight_decay, betas, max_norm, schedule: see ``RowWiseAdam``.
    """

    def __init__(
        self,
        module: nn.Module,
        workers: Workers,
        *,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        max_norm: float = 5.0,
        schedule: Callable[[int], float] | None = None,
    ) -> None:
        super().__init__(
            module,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            betas=betas,
            max_norm=max_norm,
            schedule=schedule,
        )
        self._workers = workers
        self._sparse = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding) and m.sparse}
        self._rows = {id(table.weight): table.num_embeddings for table in _sharded(module)}

    def sharded_states(self) -> dict[str, int]:
        """Names of :meth:`state` that hold one row a row of a sharded table -> rows of the whole table."""
        names = {}
        for part, adam in self._parts.items():
            for place, parameter in enumerate(adam.parameters):
                if id(parameter) in self._rows:
                    for name in ("exp_avg", "exp_avg_sq"):
                        names[f"{part}.{place}.{name}"] = self._rows[id(parameter)]
        return names

    def _clip(self) -> Tensor:
        copied = [parameter for parameter in self._parameters if id(parameter) not in self._rows]
        self._add_up(copied)
        if not self._max_norm:
            return torch.zeros(())
        sharded = [parameter for parameter in self._parameters if id(parameter) in self._rows]
        square = self._workers.sum(self._square(sharded)) + self._square(copied)
        norm = square.sqrt()
        scale = (self._max_norm / (norm + 1e-6)).clamp(max=1.0)
        for value in gradient_values(self._parameters):
            value.mul_(scale)
        return norm

    def _square(self, parameters: Iterable[Tensor]) -> Tensor:
        """The squared norm of all their gradients, float64."""
        zero = torch.zeros((), dtype=torch.float64, device=self._workers.device)
        return torch.stack([zero, *(value.double().square().sum() for value in gradient_values(parameters))]).sum()

    @torch.no_grad()
    def _add_up(self, copied: list[Tensor]) -> None:
        """All gradients of copied parameters in one all-reduce; a parameter that nobody used keeps none.

        A small table with sparse gradients travels whole, with a mark for each row in use: Adam's moments of the
        others must stand still.
        """
        pieces = []
        for parameter in copied:
            gradient = parameter.grad
            used = torch.zeros(len(parameter) if id(parameter) in self._sparse else 1, device=parameter.device)
            if gradient is None:
                pieces += [torch.zeros_like(parameter).flatten(), used]
                continue
            used[gradient.coalesce().indices()[0] if gradient.is_sparse else 0] = 1.0
            pieces += [gradient.to_dense().flatten(), used]
        if not pieces:
            return
        flat = self._workers.sum(torch.cat(pieces)).split([len(piece) for piece in pieces])
        for parameter, value, used in zip(copied, flat[::2], flat[1::2], strict=True):
            whole, rows = value.view_as(parameter), used.nonzero()[:, 0]
            if not len(rows):
                parameter.grad = None
            elif id(parameter) in self._sparse:
                parameter.grad = torch.sparse_coo_tensor(
                    rows[None], whole[rows], whole.shape, is_coalesced=True, check_invariants=False
                )
            else:
                parameter.grad = whole


def _sharded(module: nn.Module) -> Iterator[ShardedEmbedding]:
    return (inner for inner in module.modules() if isinstance(inner, ShardedEmbedding))
