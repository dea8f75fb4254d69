"""The losses of both stages. Natural logarithms; each returns the mean over its P examples.

With weights [P] the mean is sum of weight x loss / sum of weights: an example of weight 2 is that example twice.
Where a process holds a share of a batch, sampled losses return its part of the whole batch's mean: parts add up to it.
Gradients flow to query and item vectors, never through sampling probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from corral.data.whole_batch import gathered, placed, summed, total


def full_precision(values: Tensor) -> Tensor:
    """In float32, or in float64 where they are: no loss is computed in less."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def weighted_mean(losses: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean of losses [P] under weights [P], None: all alike; 0 where there is nothing."""
    if weight is None:
        return losses.sum() / max(total(len(losses)), 1)
    return (losses * weight).sum() / total_weight(weight).to(losses.dtype)


def total_weight(weight: Tensor) -> Tensor:
    """The sum of the weights [P] of the whole batch, a scalar above 0, float64."""
    return summed(weight.sum(dtype=torch.float64)).clamp(min=torch.finfo(weight.dtype).tiny)


def click_loss(logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """Log loss of logits [P] on labels [P] in [0, 1]."""
    logits = full_precision(logits)
    losses = functional.binary_cross_entropy_with_logits(logits, label.to(logits.dtype), reduction="none")
    return weighted_mean(losses, weight)


class _ChunkedSoftmax(torch.autograd.Function):
    """Cross entropy over all items, in chunks of queries: memory chunk x M instead of P x M.

    The sum of losses, each times its weight, times ``scale``. ``changed``: what becomes of the logits [p, M] of some
    rows of the queries before the softmax, without gradient of its own.

    The gradients are made in the forward pass, while a chunk's probabilities are at hand: three matrix
    products in all, instead of four with recomputation. The products run in ``dtype``; the softmax, the loss
    and the sum of the item gradients in float32 (or float64 where the queries are).
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        item_vectors: Tensor,
        target: Tensor,
        chunk: int,
        smoothing: float,
        dtype: torch.dtype,
        weight: Tensor | None,
        scale: Tensor | float,
        changed: Callable[[Tensor, slice], Tensor] | None,
    ) -> Tensor:
        exact = queries.dtype
        low_queries, low_items = queries.to(dtype), item_vectors.to(dtype)
        loss = torch.zeros((), dtype=torch.float64, device=queries.device)
        query_grad, item_grad = torch.empty_like(queries), torch.zeros_like(item_vectors)
        for start in range(0, len(queries), chunk):
            rows = slice(start, start + chunk)
            part, right = low_queries[rows], target[rows, None]
            logits = (part @ low_items.T).to(exact)
            if changed is not None:
                logits = changed(logits, rows)
            grad = torch.softmax(logits, 1)
            # log of the normaliser, from the largest logit and its probability: no second pass of exponentials
            log_mass = logits.amax(1, keepdim=True) - grad.amax(1, keepdim=True).log()
            losses = log_mass - (1 - smoothing) * logits.gather(1, right)
            mine = None if weight is None else weight[rows, None]
            loss += losses.sum() if mine is None else (mine * losses).sum()
            if smoothing:
                loss -= smoothing / len(item_vectors) * (logits if mine is None else mine * logits).sum()
                grad -= smoothing / len(item_vectors)
            grad.scatter_add_(1, right, grad.new_full(right.shape, smoothing - 1.0))
            if mine is not None:
                grad *= mine
            low_grad = grad.to(dtype)
            query_grad[rows] = low_grad @ low_items
            item_grad += low_grad.T @ part
        ctx.save_for_backward(query_grad.mul_(scale), item_grad.mul_(scale))
        return (loss * scale).to(exact)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query_grad, item_grad = ctx.saved_tensors
        return query_grad * grads[0], item_grad * grads[0], *(None,) * 7


def _chunked_softmax(
    queries: Tensor,
    item_vectors: Tensor,
    target: Tensor,
    scale: Tensor | float,
    *,
    chunk: int,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    changed: Callable[[Tensor, slice], Tensor] | None = None,
) -> Tensor:
    """``_ChunkedSoftmax`` in the precision of the moment."""
    device = queries.device.type
    # Under autocast the queries may come in half precision; the softmax itself never runs in it.
    exact = torch.float64 if queries.dtype == torch.float64 else torch.float32
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else exact
    return _ChunkedSoftmax.apply(
        queries.to(exact), item_vectors.to(exact), target, chunk, label_smoothing, low, weight, scale, changed
    )


def full_softmax(
    queries: Tensor,
    item_vectors: Tensor,
    target: Tensor,
    *,
    chunk: int = 256,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Cross entropy of the clicked item against the whole catalogue, exact and in chunks.

    Args:
        queries: [P, D].
        item_vectors: vectors of the catalogue [M, D].
        target: position in ``item_vectors`` of each clicked item [P], int64.
        chunk: queries per chunk; memory is chunk x M floats.
        label_smoothing: probability mass spread evenly over the catalogue.
        weight: of each example [P].

    Under ``torch.autocast`` the three matrix products run in its dtype.

    Returns:
        Scalar, mean over P; 0 for P = 0.
    """
    scale = 1.0 / max(len(queries), 1) if weight is None else 1.0 / total_weight(weight)
    return _chunked_softmax(
        queries, item_vectors, target, scale, chunk=chunk, label_smoothing=label_smoothing, weight=weight
    )


def sampled_softmax(
    positive: Tensor,
    negative: Tensor,
    log_q_positive: Tensor | float,
    log_q_negative: Tensor,
    hit: Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    """Cross entropy against sampled negatives with the log-Q correction (CoRR, L_re and L_ra).

    ``-log e^{s+ - log Q(i+)} / (e^{s+ - log Q(i+)} + sum_j e^{s_j - log Q(j)})``.

    Args:
        positive: scores of the clicked items [P].
        negative: scores of the draws [P, N].
        log_q_positive: log-probability of drawing the clicked item [P]; ``-log N`` for the form that treats
            it as present with certainty (then ``hit`` must be masked, which it is here).
        log_q_negative: log-probability of each draw [P, N] or broadcastable; normalised.
        hit: True where a draw is the clicked item [P, N]; masked out.
        weight: of each example [P].

    Returns:
        Scalar, mean over P; 0 for P = 0.
    """
    corrected = (full_precision(negative) - log_q_negative).masked_fill(hit, -torch.inf)
    own = (full_precision(positive) - log_q_positive)[:, None]
    losses = torch.logsumexp(torch.cat([own, corrected], 1), 1) - own[:, 0]
    return weighted_mean(losses, weight)


def in_batch_softmax(
    queries: Tensor,
    positives: Tensor,
    item: Tensor,
    log_share: Tensor,
    weight: Tensor | None = None,
    *,
    chunk: int = 256,
) -> Tensor:
    """Cross entropy against the other examples' items, corrected by their frequency.

    An item enters a batch in proportion to its share of events, so ``log_share`` is subtracted from every
    column (Yi et al., RecSys 2019); the sign is tested against the full softmax.

    Args:
        queries: [P, D].
        positives: vectors of the clicked items [P, D].
        item: their rows [P], int64; other examples with the same item are masked.
        log_share: log of each clicked item's share of train events [P].
        weight: of each example as a positive [P]; as a negative of others it counts as often as it is there.
        chunk: queries per chunk; memory is chunk x P floats.

    Where this process holds a share of the batch, the other shares' items are gathered: chunk x all of them.

    Returns:
        Scalar, mean over P; 0 for P = 0.
    """
    own = placed(len(queries))[1]
    place = torch.arange(own.start, own.stop, device=queries.device)
    items, log_shares = gathered(item), gathered(log_share)

    def corrected(logits: Tensor, rows: slice) -> Tensor:
        same = (item[rows, None] == items).scatter_(1, place[rows, None], False)
        return logits.sub_(log_shares).masked_fill_(same, -torch.inf)

    scale = 1.0 / max(total(len(queries)), 1) if weight is None else 1.0 / total_weight(weight)
    every = gathered(full_precision(positives))
    return _chunked_softmax(queries, every, place, scale, chunk=chunk, weight=weight, changed=corrected)


def binary_loss(logits: Tensor, hit: Tensor, weight: Tensor | None = None) -> Tensor:
    """Log loss of [i+ ; draws]: label 1 for column 0, 0 for the others; mean over all pairs.

    Args:
        logits: scores of either stage [P, 1 + N].
        hit: True where a draw is the clicked item [P, N]; left out.
        weight: of each example, all its pairs [P].
    """
    logits = full_precision(logits)
    label = torch.zeros_like(logits)
    label[:, 0] = 1.0
    loss = functional.binary_cross_entropy_with_logits(logits, label, reduction="none")
    pairs = torch.cat([torch.ones_like(logits[:, :1]), (~hit).to(logits.dtype)], 1)
    if weight is not None:
        return weighted_mean(loss.flatten(), (pairs * weight[:, None]).flatten())
    return (loss * pairs).sum() / max(total(int(pairs.sum())), 1)
