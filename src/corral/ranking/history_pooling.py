"""From a history of vectors to one vector: the mean, or as a candidate sees it (target attention).

Shape letters: B queries, N items per query, L history length, S vector size, H hidden size.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Bytes of the products [b, L, n, S] evaluated at a time. On a CPU a piece then stays in cache; smaller ones
# would pay for the calls. Elsewhere pieces only bound the memory of long candidate lists.
CPU_PIECE, DEVICE_PIECE = 1 << 20, 1 << 29


def mean_weights(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What a mean over the places [B, L] where ``mask`` is True weighs each with; zeros where there is none."""
    weights = mask.to(dtype)
    return weights / weights.sum(1, keepdim=True).clamp(min=1.0)


def mean_pooling(history: Tensor, mask: Tensor) -> Tensor:
    """Mean of the history vectors where ``mask`` is True; zero where there is none.

    Args:
        history: [B, L, ...].
        mask: [B, L] bool.

    Returns:
        [B, ...].
    """
    pooled = torch.bmm(mean_weights(mask, history.dtype).unsqueeze(1), history.flatten(2))
    return pooled.view(history.shape[0], *history.shape[2:])


def _pieces(starts: Sequence[int], length: int, target: Tensor) -> Iterator[tuple[slice, int, slice]]:
    """Queries, first history slot and items of each piece: whole queries, or some items of one query.

    Args:
        starts: the first slot that is not padding of each query, ascending; L for no history at all.
        length: L.
        target: [B, N, S].
    """
    budget = CPU_PIECE if target.device.type == "cpu" else DEVICE_PIECE
    budget //= target.shape[2] * target.element_size()
    begin, end = 0, bisect.bisect_left(starts, length)
    while begin < end:
        pairs = max(1, budget // (length - starts[begin]))
        step = min(target.shape[1], pairs)
        rows = slice(begin, min(begin + pairs // step, end))
        for item in range(0, target.shape[1], step):
            yield rows, starts[begin], slice(item, item + step)
        begin = rows.stop


class _Buffers:
    """Memory that every piece uses again: fresh pages for each cost more than the arithmetic done in them."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._flat: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        size = math.prod(shape)
        if name not in self._flat or self._flat[name].numel() < size:
            self._flat[name] = self._like.new_empty(size)
        return self._flat[name][:size].view(shape)


class _PairLogits(torch.autograd.Function):
    """The logits a(t, h) [B, L, N] of all pairs, piece by piece, with the gradient written out.

    Autograd would keep every intermediate result and make passes of its own over [B, L, N, S]. Here a piece
    keeps the activations of its hidden layers alone, and its products t * h, larger than they and cheap, are
    made again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        starts: Sequence[int],
        training: bool,
        target: Tensor,
        history: Tensor,
        by_target: Tensor,
        by_history: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        """The first layer is relu(W4 (t*h) + by_history + by_target).

        Args:
            starts: see ``_pieces``; pairs with earlier slots get zero.
            training: keep what ``backward`` needs.
            target, history: t [B, N, S] and h [B, L, S].
            by_target, by_history: [B, N, H] and [B, L, H].
            parameters: W4 [H, S], then weight and bias of each deeper layer, the last one of size 1.
        """
        product_weight, *deeper = (parameter.to(target.dtype) for parameter in parameters)
        buffers, kept = _Buffers(target), []
        size, length, items = target.shape[2], history.shape[1], target.shape[1]
        logits = target.new_zeros(len(target), length, items)
        for rows, start, columns in _pieces(starts, length, target):
            some_target, some_history = target[rows, None, columns], history[rows, start:, None]
            # Not broadcast_shapes, which takes longer than the product of a short piece.
            shape = (*some_history.shape[:2], some_target.shape[2], size)
            product = torch.mul(some_history, some_target, out=buffers("product", *shape))
            hidden = by_history[rows, start:, None] + by_target[rows, None, columns]
            hidden = hidden.view(-1, hidden.shape[-1]).addmm_(product.view(-1, size), product_weight.t()).relu_()
            for weight, bias in zip(deeper[:-2:2], deeper[1:-2:2], strict=True):
                kept.append(hidden)
                hidden = functional.linear(hidden, weight, bias).relu_()
            kept.append(hidden)
            logits[rows, start:, columns] = functional.linear(hidden, *deeper[-2:]).view(shape[:-1])
            if not training:
                kept.clear()
        if training:
            ctx.starts = starts
            ctx.save_for_backward(target, history, *parameters, *kept)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_logits: Tensor) -> tuple[Tensor | None, ...]:
        """``to_x`` is the gradient of the loss with respect to x."""
        target, history, *rest = ctx.saved_tensors
        count = len(ctx.needs_input_grad) - 6
        product_weight, *deeper = (parameter.to(target.dtype) for parameter in rest[:count])
        weights, kept = deeper[::2], iter(rest[count:])
        to_product_weight, *to_deeper = (torch.zeros_like(parameter) for parameter in rest[:count])
        buffers = _Buffers(target)
        (queries, length, items), (hidden_size, size) = to_logits.shape, product_weight.shape
        to_target, to_history = torch.zeros_like(target), torch.zeros_like(history)
        to_by_target = target.new_zeros(queries, items, hidden_size)
        to_by_history = target.new_zeros(queries, length, hidden_size)
        for rows, start, columns in _pieces(ctx.starts, length, target):
            some_target, some_history = target[rows, None, columns], history[rows, start:, None]
            gradient = to_logits[rows, start:, columns]
            shape = gradient.shape
            gradient = gradient.reshape(-1, 1)
            activations = [next(kept) for _ in weights]
            for number in reversed(range(len(weights))):
                below = activations[number]
                to_deeper[2 * number] += gradient.t() @ below
                to_deeper[2 * number + 1] += gradient.sum(0)
                gradient = torch.mm(gradient, weights[number], out=buffers(f"activations {number}", *below.shape))
                torch.ops.aten.threshold_backward.grad_input(gradient, below, 0, grad_input=gradient)
            product = torch.mul(some_history, some_target, out=buffers("product", *shape, size))
            to_product_weight += gradient.t() @ product.view(-1, size)
            to_product = torch.mm(gradient, product_weight, out=buffers("to_product", len(gradient), size))
            to_product, gradient = to_product.view(*shape, size), gradient.view(*shape, hidden_size)
            to_by_target[rows, columns] += gradient.sum(1)
            to_by_history[rows, start:] += gradient.sum(2)
            to_target[rows, columns] += torch.mul(to_product, some_history, out=product).sum(1)
            to_history[rows, start:] += to_product.mul_(some_target).sum(2)
        return None, None, to_target, to_history, to_by_target, to_by_history, to_product_weight, *to_deeper


def _all_pairs(
    target: Tensor,
    history: Tensor,
    by_target: Tensor,
    by_history: Tensor,
    product_weight: Tensor,
    *deeper: Tensor,
) -> Tensor:
    """What ``_PairLogits`` gives of no padding, in one piece: for exporters, which know no functions of ours."""
    product = functional.linear(history[:, :, None] * target[:, None], product_weight)
    hidden = torch.relu(product + by_history[:, :, None] + by_target[:, None])
    for weight, bias in zip(deeper[:-2:2], deeper[1:-2:2], strict=True):
        hidden = torch.relu(functional.linear(hidden, weight, bias))
    return functional.linear(hidden, *deeper[-2:]).squeeze(-1)


class TargetAttention(nn.Module):
    """DIN's activation unit: sum over the history of a(t, h) h, with a an MLP of [t ; h ; t - h ; t * h].

    The tiled input [B, N, L, 4 S] is never made. With the first layer's W = [W1 W2 W3 W4],

        W [t; h; t-h; t*h] + b = W4 (t*h)  +  (W2 - W3) h  +  ((W1 + W3) t + b):

    exact, and only the first product is made for every pair (see ``_PairLogits``). On a CPU the queries are
    taken in the order of their lengths, so that padding costs next to nothing.

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
        length = history.shape[1]
        if length == 0 or target.shape[1] == 0 or target.shape[0] == 0:
            return torch.zeros_like(target)
        if torch.compiler.is_compiling():  # neither lengths nor their number are static
            return self._pooled(target, history, mask, [])
        if target.device.type != "cpu":  # the lengths would have to be waited for
            return self._pooled(target, history, mask, [0] * len(target))
        starts = torch.where(mask.any(1), mask.to(torch.int8).argmax(1), length)
        if len(target) == 1:
            return self._pooled(target, history, mask, starts.tolist())
        starts, order = starts.sort(stable=True)
        # index_select, not brackets: its gradient is many times cheaper.
        target, history, mask = (whole.index_select(0, order) for whole in (target, history, mask))
        return self._pooled(target, history, mask, starts.tolist()).index_select(0, order.argsort())

    def _pooled(self, target: Tensor, history: Tensor, mask: Tensor, starts: Sequence[int]) -> Tensor:
        device = target.device.type
        low = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if low else target.dtype
        target, history = target.to(dtype), history.to(dtype)
        asked, seen = target, history
        if self.projection is not None:
            asked, seen = self.projection(target), self.projection(history)
        on_target, on_history, on_difference, on_product = self.first.weight.chunk(4, dim=1)
        by_target = functional.linear(asked, on_target + on_difference, self.first.bias)
        by_history = functional.linear(seen, on_history - on_difference)
        deeper = [p for layer in (*self.deeper, self.output) for p in (layer.weight, layer.bias)]
        training = torch.is_grad_enabled()
        with torch.autocast(device, enabled=False):
            if torch.compiler.is_compiling():
                logits = _all_pairs(asked, seen, by_target, by_history, on_product, *deeper)
            else:
                logits = _PairLogits.apply(starts, training, asked, seen, by_target, by_history, on_product, *deeper)
        present = mask.unsqueeze(-1)
        if self.softmax:
            # A finite fill: a history of padding alone has weights 1 / L here, and zero after the mask.
            logits = logits.masked_fill(~present, torch.finfo(logits.dtype).min).softmax(dim=1)
        return torch.bmm((logits * present).transpose(1, 2), history)
