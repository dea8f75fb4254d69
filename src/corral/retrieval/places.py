"""Places: vectors of distinct rows brought to every place that asks for one, with the gradient written out.

Shape letters: n distinct rows, m places, K places of a set, D vector size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


@dataclass(frozen=True)
class Places:
    """Where the rows of a table of vectors are asked for.

    A row that is asked for many times takes the sum of as many gradients. Autograd would add them one by one, in the
    order of the places; sorted by row they are sums of runs, several times cheaper.

    Attributes:
        row: of the table, at each place [...], int64.
        order: flat places sorted by row [m]; None: there will be no gradient.
        starts: where each row's begin in ``order`` [n].
    """

    row: Tensor
    order: Tensor | None = None
    starts: Tensor | None = None

    @classmethod
    def distinct(cls, rows: Tensor) -> tuple[Tensor, Places]:
        """The distinct values of ``rows`` [...], ascending [n], and the places of a table that has one row for each."""
        ascending, order = rows.flatten().sort(stable=True)
        first = torch.ones_like(ascending, dtype=torch.bool)
        torch.ne(ascending[1:], ascending[:-1], out=first[1:])
        starts = first.nonzero().flatten()
        row = torch.empty_like(order).scatter_(0, order, first.cumsum(0) - 1)
        return ascending[starts], cls(row.view(rows.shape), order, starts)

    def spread(self, vectors: Tensor) -> Tensor:
        """[n, D] -> [..., D]."""
        if not (torch.is_grad_enabled() and vectors.requires_grad):
            return _spread(vectors, self)
        spread: Tensor = _Spread.apply(vectors, self)
        return spread

    def weighted_sum(self, vectors: Tensor, weights: Tensor) -> Tensor:
        """The sum over each set of weight times vector; the vectors [..., K, D] are never made.

        Args:
            vectors: [n, D].
            weights: [..., K], as the places.

        Returns:
            [..., D].
        """
        sets, count = self.row.shape[:-1], self.row.shape[-1]
        if not self.row.numel():  # zeros that still have a gradient: other shares of a batch wait for it
            return vectors[:0].sum(0).expand(*sets, -1)
        if torch.compiler.is_compiling():  # exporters know no bags
            return (weights.to(vectors.dtype)[..., None] * self.spread(vectors)).sum(-2)
        weights = weights.to(vectors.dtype).reshape(-1)
        begins = torch.arange(0, len(weights), count, device=weights.device)
        # The weights' gradient is autograd's own, that of the vectors is put beside it.
        flat = functional.embedding_bag(
            self.row.flatten(), vectors.detach(), begins, mode="sum", per_sample_weights=weights
        )
        if torch.is_grad_enabled() and vectors.requires_grad:
            flat = _OfVectors.apply(flat, vectors, weights.detach(), self)
        return flat.view(*sets, vectors.shape[1])


def _spread(vectors: Tensor, places: Places) -> Tensor:
    return vectors.index_select(0, places.row.flatten()).view(*places.row.shape, vectors.shape[1])


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, places: Places) -> Tensor:
        ctx.places = places
        return _spread(vectors, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        flat, places = gradient.reshape(-1, gradient.shape[-1]), ctx.places
        return functional.embedding_bag(places.order, flat, places.starts, mode="sum"), None


class _OfVectors(torch.autograd.Function):
    """Gives the vectors of a weighted sum their gradient, and changes nothing."""

    @staticmethod
    def forward(ctx: Any, pooled: Tensor, vectors: Tensor, weights: Tensor, places: Places) -> Tensor:
        ctx.places = places
        ctx.save_for_backward(weights)
        return pooled.view_as(pooled)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (weights,), places = ctx.saved_tensors, ctx.places
        of_set = torch.div(places.order, places.row.shape[-1], rounding_mode="floor")
        summed = functional.embedding_bag(
            of_set, gradient.contiguous(), places.starts, mode="sum", per_sample_weights=weights[places.order]
        )
        return gradient, summed, None, None
