"""An MLP over [context ; item] that computes the context's share of its first layer once per query.

Shape letters: B queries, N items per query, H hidden size.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.data.whole_batch import is_share, summed, total


class QueryDropout(nn.Module):
    """Dropout with one mask per query, shared by its items.

    The items of a query are compared with one another, so they should be scored by the same thinned network;
    and B masks are cheaper to draw than B * N.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"a dropout probability must be in [0, 1), got {probability}")
        self.probability = probability

    def forward(self, vectors: Tensor) -> Tensor:
        """[B, N, H] -> [B, N, H]; the identity in evaluation mode."""
        if not self.training or self.probability == 0.0:
            return vectors
        return vectors * functional.dropout(vectors.new_ones(vectors.shape[0], 1, vectors.shape[2]), self.probability)


class CandidateBatchNorm(nn.BatchNorm1d):
    """Batch normalisation over all B * N rows, of the whole batch where this process holds a share of it. A single
    row has no variance: it takes the running statistics."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, N, H] -> [B, N, H]."""
        rows = input.flatten(0, 1)
        number = total(len(rows)) if self.training else 0
        if number == 1:
            rows = functional.batch_norm(
                rows,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                training=False,
                eps=self.eps,
            )
        elif self.training and is_share():
            rows = self._of_share(rows, number)
        else:
            rows = super().forward(rows)
        return rows.view_as(input)

    def _of_share(self, rows: Tensor, number: int) -> Tensor:
        """Rows [R, H] by mean and variance of all shares' rows, so many; the running statistics follow these."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        exact = rows.to(self.weight.dtype)
        mean = summed(exact.sum(0)) / number
        centred = exact - mean
        variance = summed(centred.square().sum(0)) / number
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (number / (number - 1)), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        return (centred * (variance + self.eps).rsqrt() * self.weight + self.bias).to(rows.dtype)


class SplitMlp(nn.Module):
    """Linear, (batch norm,) ReLU, dropout; as often as there are hidden sizes.

    W [c ; i] = W_c c + W_i i, so the first product of the context is made B times and not B * N times: exact,
    with the weights and the initialisation of one layer over the concatenation.
    """

    def __init__(
        self,
        context_size: int,
        item_size: int,
        hidden: Sequence[int],
        *,
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("hidden must name at least one layer size, got ()")
        self.context_size = context_size
        self.output_size = hidden[-1]
        sizes = [context_size + item_size, *hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.norms = nn.ModuleList(CandidateBatchNorm(size) if batch_norm else nn.Identity() for size in hidden)
        self.dropout = QueryDropout(dropout)

    def forward(self, context: Tensor, items: Tensor) -> Tensor:
        """context [B, 1, C], items [B, N, I] -> [B, N, hidden[-1]]."""
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        weight = first.weight
        vectors = functional.linear(items, weight[:, self.context_size :])
        vectors = vectors + functional.linear(context, weight[:, : self.context_size], first.bias)
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            if number > 0:
                vectors = layer(vectors)
            vectors = self.dropout(torch.relu(norm(vectors)))
        return vectors
