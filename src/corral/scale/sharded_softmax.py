"""ShardedSoftmax: the full softmax, vocabulary-parallel: every worker scores all queries against its own items.

Shape letters: P queries of this worker, A of all, M items of all, m of this worker, D vector size.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from corral.retrieval.retriever import Retriever
from corral.scale.workers import Workers


class _ShardedSoftmax(torch.autograd.Function):
    """Sum over this worker's queries of their cross entropy; the gradients are made in the forward pass, as in
    ``full_softmax``, and hold this worker's items for all queries, all items for its queries."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        item_vectors: Tensor,
        position: Tensor,
        workers: Workers,
        chunk: int,
        smoothing: float,
        items: int,
        dtype: torch.dtype,
        weight: Tensor | None,
    ) -> Tensor:
        weights = None if weight is None else torch.cat(workers.gather(weight))
        every, wanted = workers.gather(queries), torch.cat(workers.gather(position))
        if bool((wanted < 0).any()):
            raise ValueError("a clicked item is not in the catalogue")
        counts = [len(part) for part in every]
        all_queries, low_items = torch.cat(every).to(dtype), item_vectors.to(dtype)
        first = sum(workers.numbers(len(item_vectors))[: workers.rank])
        query_grad, item_grad = torch.zeros_like(torch.cat(every)), torch.zeros_like(item_vectors)
        losses = queries.new_zeros(len(all_queries), dtype=torch.float64)
        for start in range(0, len(all_queries), chunk):
            part, right = all_queries[start : start + chunk], wanted[start : start + chunk] - first
            here = ((right >= 0) & (right < len(item_vectors))).nonzero()[:, 0]
            logits = (part @ low_items.T).to(queries.dtype)
            own = torch.zeros(len(part), dtype=torch.float64, device=logits.device)
            own[here] = logits[here, right[here]].double()
            # log of this worker's mass, the clicked item's logit, the sum of all logits
            said = torch.stack([torch.logsumexp(logits, 1).double(), own, logits.sum(1, dtype=torch.float64)], 1)
            heard = torch.stack(workers.gather(said))
            log_mass = torch.logsumexp(heard[..., 0], 0)
            of_right, of_all = heard[..., 1].sum(0), heard[..., 2].sum(0)
            losses[start : start + chunk] = log_mass - (1 - smoothing) * of_right - smoothing / items * of_all
            grad = (logits - log_mass[:, None].to(logits.dtype)).exp_() - smoothing / items
            grad[here, right[here]] += smoothing - 1.0
            if weights is not None:
                losses[start : start + chunk] *= weights[start : start + chunk]
                grad *= weights[start : start + chunk, None]
            low_grad = grad.to(dtype)
            query_grad[start : start + chunk] = low_grad @ low_items
            item_grad += low_grad.T @ part
        size = workers.size
        back = workers.exchange(query_grad, counts, [counts[workers.rank]] * size)
        mine = slice(sum(counts[: workers.rank]), sum(counts[: workers.rank + 1]))
        scale: Tensor | float = 1.0 / max(len(all_queries), 1)
        if weights is not None:  # of all queries, here already
            scale = 1.0 / weights.sum(dtype=torch.float64).clamp(min=torch.finfo(weights.dtype).tiny)
        ctx.save_for_backward(back.view(size, *queries.shape).sum(0).mul_(scale), item_grad.mul_(scale))
        return (losses[mine].sum() * scale).to(queries.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query_grad, item_grad = ctx.saved_tensors
        return query_grad * grads[0], item_grad * grads[0], *(None,) * 7


class ShardedSoftmax(nn.Module):
    """``CatalogueSoftmax`` over items that are cut over the workers; its loss is this worker's part of the mean.

    Per step and worker: all queries and targets are gathered, 3 numbers a query are, and the gradients of the queries
    are exchanged: 4 A (2 D + 8) bytes or so, whatever M is. Logits: chunk x W x m floats, chunk x M.

    Args:
        catalogue: item rows [M], int64, ascending.
        items: this worker's, one part of the catalogue after the other [m].
        workers: who share it.
        chunk: queries per chunk and worker.
        label_smoothing: probability mass spread evenly over the catalogue.
    """

    items: Tensor
    position: Tensor

    def __init__(
        self, catalogue: Tensor, items: Tensor, workers: Workers, *, chunk: int = 256, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.workers, self.size, self.chunk, self.label_smoothing = workers, len(catalogue), chunk, label_smoothing
        # -1: a target outside the catalogue is nobody's.
        position = torch.full((int(catalogue.max()) + 1,), -1)
        position[catalogue] = torch.arange(len(catalogue))
        self.register_buffer("items", items, persistent=False)
        self.register_buffer("position", position, persistent=False)

    def forward(self, retriever: Retriever, queries: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """See ``ItemSoftmax``."""
        vectors, device = retriever.encode_items(self.items), queries.device.type
        exact = torch.float64 if queries.dtype == torch.float64 else torch.float32
        return cast(
            Tensor,
            _ShardedSoftmax.apply(
                queries.to(exact),
                vectors.to(exact),
                self.position[target],
                self.workers,
                self.chunk * self.workers.size,
                self.label_smoothing,
                self.size,
                torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else exact,
                weight,
            ),
        )


def own_items(catalogue: Tensor, rows: int, workers: Workers) -> Tensor:
    """The items of a catalogue [M], ascending, whose rows of a table of so many ``rows`` are this worker's [m]."""
    first, stop = workers.blocks(rows)[workers.rank]
    return catalogue[(catalogue >= first) & (catalogue < stop)]
