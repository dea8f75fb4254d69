"""From a history of vectors to one vector: the mean, or as a candidate sees it (target attention).

Shape letters: B queries, N items per query, L history length, S vector size, H hidden size.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

# Elements of the first attention layer [b, L, n, H] evaluated at a time. On a CPU the intermediate results
# of a piece then stay in cache and come from the allocator's pool instead of fresh pages: measured 3x faster
# in training than one piece. Elsewhere pieces only bound the memory of long candidate lists.
CPU_PIECE, DEVICE_PIECE = 1 << 18, 1 << 27


def mean_pooling(history: Tensor, mask: Tensor) -> Tensor:
    """Mean of the history vectors where ``mask`` is True; zero where there is none.

    Args:
        history: [B, L, ...].
        mask: [B, L] bool.

    Returns:
        [B, ...].
    """
    weights = mask.to(history.dtype)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1.0)
    pooled = torch.bmm(weights.unsqueeze(1), history.flatten(2))
    return pooled.view(history.shape[0], *history.shape[2:])


class TargetAttention(nn.Module):
    """DIN's activation unit: sum over the history of a(t, h) h, with a an MLP of [t ; h ; t - h ; t * h].

    The tiled input [B, N, L, 4 S] is never made. With the first layer's W = [W1 W2 W3 W4],

        W [t; h; t-h; t*h] + b = h (W4 diag(t) + W2 - W3)^T  +  ((W1 + W3) t + b):

    one batched product of the history with a matrix of each target; exact, in [B, N, H, S] + [B, L, N, H]
    numbers. The activations [B, L, N, H] cannot be avoided; in training autograd keeps about
    sum(hidden) * B * N * L numbers, without gradient one piece of them (see ``CPU_PIECE``).

    Args:
        size: S, of targets and history vectors alike.
        hidden: sizes of the hidden layers, each followed by a ReLU (for Dice see ``ranking.ctr.din.DIN``).
        attention_size: where given, targets and history vectors are first projected to this size by one
            shared matrix for a(t, h) alone: a cheaper, smaller model; the sum is still of whole vectors.
        softmax: normalise the weights over the history. The paper does not, to keep the strength of an
            interest.
    """

    def __init__(
        self,
        size: int,
        *,
        hidden: Sequence[int] = (32, 16),
        attention_size: int | None = None,
        softmax: bool = False,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("the attention needs at least one hidden layer, got hidden=()")
        self.softmax = softmax
        self.projection = None if attention_size is None else nn.Linear(size, attention_size, bias=False)
        inner = size if attention_size is None else attention_size
        self.first = nn.Linear(4 * inner, hidden[0])
        self.deeper = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(hidden))
        self.output = nn.Linear(hidden[-1], 1)

    def forward(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """target [B, N, S], history [B, L, S], mask [B, L] -> [B, N, S]; zero where there is no history."""
        queries, items, length = target.shape[0], target.shape[1], history.shape[1]
        if length == 0 or items == 0 or queries == 0:
            return torch.zeros_like(target)
        budget = CPU_PIECE if target.device.type == "cpu" else DEVICE_PIECE
        budget //= length * self.first.out_features
        item_step = max(1, min(items, budget))
        query_step = max(1, min(queries, budget // item_step))
        asked, seen = target, history
        if self.projection is not None:
            asked, seen = self.projection(target), self.projection(history)
        # split, not slices: the gradient of a slice is a whole tensor of zeros for each piece.
        pieces = zip(*(whole.split(query_step) for whole in (asked, seen, history, mask)), strict=True)
        rows = []
        for some_asked, some_seen, some_history, some_mask in pieces:
            for piece in some_asked.split(item_step, dim=1):
                weights = self._weights(piece, some_seen, some_mask)
                rows.append(torch.bmm(weights.transpose(1, 2), some_history).flatten(0, 1))
        # Queries are whole in a piece, or a piece is of one query: either way the rows are in order.
        return torch.cat(rows).view_as(target)

    def _weights(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """The attention weights [b, L, n]; zero at padding."""
        logits = self._logits(target, history)
        present = mask.unsqueeze(-1)
        if self.softmax:
            # A finite fill: a history of padding alone has weights 1 / L here, and zero after the mask.
            logits = logits.masked_fill(~present, torch.finfo(logits.dtype).min).softmax(dim=1)
        return logits * present

    def _logits(self, target: Tensor, history: Tensor) -> Tensor:
        (queries, items, size), length = target.shape, history.shape[1]
        by_target, by_history, by_difference, by_product = self.first.weight.split(size, dim=1)
        folded = torch.addcmul(by_history - by_difference, target.unsqueeze(2), by_product)  # [b, n, H, S]
        constant = functional.linear(target, by_target + by_difference, self.first.bias)  # [b, n, H]
        hidden = torch.baddbmm(constant.view(queries, 1, -1), history, folded.view(queries, -1, size).transpose(1, 2))
        # In place on a whole tensor: on a view of one, autograd would clear and copy the whole once more.
        vectors = torch.relu_(hidden).view(queries * length * items, -1)
        for layer in self.deeper:
            vectors = torch.relu_(layer(vectors))
        return self.output(vectors).view(queries, length, items)
