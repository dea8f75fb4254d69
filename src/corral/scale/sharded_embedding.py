"""ShardedEmbedding: an embedding table cut by row into one block a worker.

Shape letters: W workers, D vector size, n distinct rows asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from corral.retrieval.cold_ids import HasIdTables
from corral.scale.workers import Workers


class _Exchange(torch.autograd.Function):
    """Vectors from their owners to those who asked; gradients go back the same way."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, workers: Workers, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        ctx.workers, ctx.sent, ctx.received = workers, sent, received
        return workers.exchange(vectors, sent, received)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.workers.exchange(grads[0], ctx.received, ctx.sent), None, None, None


class ShardedEmbedding(nn.Embedding):
    """The rows of this worker's block, and lookups of any row.

    A lookup asks every owner once for each distinct row: 8 bytes a row there, 4 D back, 4 D of gradient there again.
    All workers look up together; one may ask for nothing. ``weight`` [block, D] is this worker's alone: so are its
    gradient (sparse if the table's is) and its optimizer state.

    Args:
        table: the whole table; its block is copied.
        workers: who hold the blocks.
    """

    def __init__(self, table: nn.Embedding, workers: Workers) -> None:
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.padding_idx, self.sparse = table.padding_idx, table.sparse
        self.max_norm, self.norm_type, self.scale_grad_by_freq = None, 2.0, False
        self.workers = workers
        self.first_row, self.stop_row = workers.blocks(table.num_embeddings)[workers.rank]
        own = table.weight.detach()[self.first_row : self.stop_row].clone()
        self.weight = nn.Parameter(own, requires_grad=table.weight.requires_grad)
        here = self.padding_idx is not None and self.first_row <= self.padding_idx < self.stop_row
        self._own_padding = cast(int, self.padding_idx) - self.first_row if here else None
        self._bounds = [first for first, _ in workers.blocks(table.num_embeddings)] + [table.num_embeddings]
        # A plain attribute: neither saved nor trained.
        self._whole: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Vectors [..., D] of rows [...]."""
        if self._whole is not None:
            return functional.embedding(input, self._whole)
        distinct, place = torch.unique(input, return_inverse=True)  # ascending: one owner's rows after the other's
        bounds = torch.searchsorted(distinct, distinct.new_tensor(self._bounds))
        sent = bounds.diff().tolist()
        size, workers = self.workers.size, self.workers
        received = workers.exchange(distinct.new_tensor(sent), [1] * size, [1] * size).tolist()
        asked = workers.exchange(distinct, sent, received) - self.first_row
        own = functional.embedding(asked, self.weight, self._own_padding, sparse=self.sparse)
        return functional.embedding(place, _Exchange.apply(own, workers, received, sent))

    @torch.no_grad()
    def copy_row(self, row: int, to: Tensor) -> None:
        """See ``HoldsSomeRows``."""
        vector = self(torch.tensor([row], device=self.weight.device))[0]
        self.weight[to[self.first_row : self.stop_row].to(self.weight.device)] = vector
        if self._whole is not None:
            self._whole[to.to(self.weight.device)] = vector

    @torch.no_grad()
    def gathered(self) -> Tensor:
        """The whole table [rows, D]."""
        return torch.cat(self.workers.gather(self.weight.detach()))

    @torch.no_grad()
    def whole(self) -> nn.Embedding:
        """An ordinary table of all rows, on every worker."""
        table = nn.Embedding(
            self.num_embeddings, self.embedding_dim, self.padding_idx, sparse=self.sparse, _weight=self.gathered()
        )
        table.weight.requires_grad_(self.weight.requires_grad)
        return table


def shard_tables(model: nn.Module, workers: Workers) -> None:
    """Cuts the id tables of a retriever or a ranker, in place."""
    tables = {id(table) for side in cast(HasIdTables, model).id_tables() for table in side}
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if id(child) in tables:
                setattr(module, name, ShardedEmbedding(cast(nn.Embedding, child), workers))


def unshard_tables(model: nn.Module) -> None:
    """Puts whole tables back, in place, on every worker: an ordinary model again."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ShardedEmbedding):
                setattr(module, name, child.whole())


@contextmanager
def whole_tables(model: nn.Module) -> Iterator[None]:
    """Every worker holds whole copies of the sharded tables inside: lookups talk to nobody, and carry no gradient."""
    tables = [module for module in model.modules() if isinstance(module, ShardedEmbedding)]
    for table in tables:
        table._whole = table.gathered()
    try:
        yield
    finally:
        for table in tables:
            table._whole = None
