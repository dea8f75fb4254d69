"""RAR, Co-Interaction: look-alike users and recall items, matched set to set.

Shape letters: B queries, N items per query, Ku look-alike users, Ki recall items, Du, Di sizes of their
vectors, H tower size, D size of what comes out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from corral.data.whole_batch import summed
from corral.training.losses import full_precision


class Normalisation(StrEnum):
    """From the matching matrix to the weights of a set; masked cells never count.

    MEAN is the paper's: w_L[a] = mean over b of G[a, b]. SUM: the sum instead. SOFTMAX: over the set, of the mean
    logit. SUM_TO_ONE: MEAN, divided by its sum over the set.
    """

    MEAN = "mean"
    SUM = "sum"
    SOFTMAX = "softmax"
    SUM_TO_ONE = "sum-to-one"


class Pooling(StrEnum):
    """What weighs the two sets: the matching matrix, or, as controls, less than it.

    SUM is the paper's ablation: every chosen row weighs 1. USERS and ITEMS: the mean of one set, no matrix, the
    other set gives zero.
    """

    CO_INTERACTION = "co-interaction"
    SUM = "sum"
    MEAN = "mean"
    USERS = "users"
    ITEMS = "items"


@dataclass(frozen=True)
class Sets:
    """The chosen rows of B queries and their N items, as vectors.

    Attributes:
        users: look-alike users of each query [B, Ku, Du].
        items: recall items of each item [B, N, Ki, Di].
        user_mask: True where there is one [B, Ku].
        item_mask: [B, N, Ki].
    """

    users: Tensor
    items: Tensor
    user_mask: Tensor
    item_mask: Tensor

    @property
    def cells(self) -> Tensor:
        """Valid cells of the matching matrix [B, N, Ku, Ki]."""
        return valid_cells(self.user_mask, self.item_mask)


def valid_cells(user_mask: Tensor, item_mask: Tensor) -> Tensor:
    """[B, Ku] and [B, N, Ki] -> [B, N, Ku, Ki]: both the look-alike and the recall item are there."""
    return user_mask[:, None, :, None] & item_mask[:, :, None, :]


@dataclass(frozen=True)
class Matching:
    """The matching matrix: is this kind of user interested in this kind of item.

    Attributes:
        logits: of G [B, N, Ku, Ki].
        cells: which are valid [B, N, Ku, Ki].
        full: it is known that all are, so that none need be masked.
    """

    logits: Tensor
    cells: Tensor
    full: bool = False


class Tower(nn.Module):
    """An MLP with one hidden layer, applied to rows."""

    def __init__(self, size: int, tower_size: int) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(size, tower_size), nn.Linear(tower_size, tower_size)

    def forward(self, vectors: Tensor) -> Tensor:
        """[..., size] -> [..., H]."""
        return self.output(torch.relu(self.hidden(vectors)))


def set_weights(matching: Matching, normalisation: Normalisation) -> tuple[Tensor, Tensor]:
    """w_L [B, N, Ku] and w_R [B, N, Ki]: what the other set thinks of each row.

    0 where a row is missing, or the whole other set. RAR, section 2: the means of G over items and over users.
    """
    return _weights(matching, normalisation, matching.cells.any(3), matching.cells.any(2))


def _weights(matching: Matching, normalisation: Normalisation, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """The same of masks [B, 1 or N, Ku] and [B, N, Ki]: to count rows of theirs is cheaper than cells."""
    cells, logits = matching.cells, matching.logits
    # All valid rows of a set see the same number of rows of the other one.
    counts = [mask.sum(-1, keepdim=True) for mask in (items, users)]
    if normalisation is Normalisation.SOFTMAX:
        kept = logits * cells
        means = [kept.sum(dim) / count.clamp(min=1) for dim, count in zip((3, 2), counts, strict=True)]
        masks = users & (counts[0] > 0), items & (counts[1] > 0)
        return _softmax(means[0], masks[0]), _softmax(means[1], masks[1])
    matrix = torch.sigmoid(logits) if matching.full else torch.sigmoid(logits) * cells
    weights = [matrix.sum(3), matrix.sum(2)]
    if normalisation is Normalisation.SUM:
        return weights[0], weights[1]
    weights = [weight / count.clamp(min=1) for weight, count in zip(weights, counts, strict=True)]
    if normalisation is Normalisation.SUM_TO_ONE:
        weights = [weight / weight.sum(-1, keepdim=True).clamp(min=1e-12) for weight in weights]
    return weights[0], weights[1]


def _softmax(mean: Tensor, present: Tensor) -> Tensor:
    """Softmax over one set of the mean logits; zero where nothing is valid."""
    # A finite fill: an empty set would give NaN.
    return mean.masked_fill(~present, torch.finfo(mean.dtype).min).softmax(-1) * present


def _products(users: Tensor, items: Tensor, bias: Tensor, scale: float) -> Tensor:
    """scale Z_L Z_R^T + b [B, Ku, M] of towers [B, Ku, H] and [B, M, H]."""
    start = bias.to(users.dtype).expand(users.shape[0], users.shape[1], items.shape[1])
    return torch.baddbmm(start, users, items.transpose(1, 2), alpha=scale)


class _Products(torch.autograd.Function):
    """``_products``, the gradient in the order of the towers: autograd's of the items is transposed, and copied."""

    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, bias: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(users, items)
        ctx.scale = scale
        return _products(users, items, bias, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        users, items = (towers.to(gradient.dtype) for towers in ctx.saved_tensors)
        of_users = torch.bmm(gradient, items) * ctx.scale
        return of_users, torch.bmm(gradient.transpose(1, 2), users * ctx.scale), gradient.sum(), None


class CoInteraction(nn.Module):
    """RAR, section 2: G = sigmoid(Z_L Z_R^T / sqrt(H) + b), v_c = w_L E_L, v_d = w_R E_R.

    The projections that bring v_c and v_d to the size of a field are linear and without a bias, so that they may be
    taken of the rows before the weighted sum, which then moves D numbers a row and not Du or Di; an empty set gives
    exactly zero.

    Args:
        user_size, item_size: Du and Di.
        tower_size: H.
        output_size: D: v_c and v_d are projected to it; None: they stay as they are (LR: one weight a coordinate).
        normalisation: from G to weights.
        pooling: the matching matrix, or a control.
        prior: share of exposed cells, where b starts: b = log(prior / (1 - prior)).
    """

    def __init__(
        self,
        user_size: int,
        item_size: int,
        *,
        tower_size: int = 32,
        output_size: int | None = None,
        normalisation: Normalisation = Normalisation.MEAN,
        pooling: Pooling = Pooling.CO_INTERACTION,
        prior: float = 0.05,
    ) -> None:
        super().__init__()
        if not 0.0 < prior < 1.0:
            raise ValueError(f"prior={prior}: the share of exposed cells must be in (0, 1)")
        if min(user_size, item_size) < 1:
            raise ValueError(f"user_size={user_size}, item_size={item_size}: RAR needs fields of users and of items")
        self.normalisation, self.pooling = normalisation, pooling
        self.user_tower, self.item_tower = Tower(user_size, tower_size), Tower(item_size, tower_size)
        self.scale = 1.0 / math.sqrt(tower_size)
        self.bias = nn.Parameter(torch.tensor(math.log(prior / (1.0 - prior))))
        sizes = (user_size, item_size)
        self.projections = (
            None if output_size is None else nn.ModuleList(nn.Linear(n, output_size, bias=False) for n in sizes)
        )

    def encode_users(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of users [n, Du] -> what is gathered of them: towers [n, H] and projected rows [n, D]."""
        return self.user_tower(vectors), vectors if self.projections is None else self.projections[0](vectors)

    def encode_items(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """The same for rows of items [n, Di]."""
        return self.item_tower(vectors), vectors if self.projections is None else self.projections[1](vectors)

    def match(self, users: Tensor, items: Tensor, cells: Tensor, *, full: bool = False) -> Matching:
        """G's logits of towers [B, Ku, H] and [B, N, Ki, H]; ``full``: all cells are valid."""
        queries, number, count, size = items.shape
        products = _Products.apply if torch.is_grad_enabled() else _products
        flat: Tensor = products(users, items.reshape(queries, number * count, size), self.bias, self.scale)
        return Matching(flat.view(queries, users.shape[1], number, count).transpose(1, 2), cells, full)

    def pool(self, matching: Matching, sets: Sets) -> tuple[Tensor, Tensor]:
        """v_c [B, N, D] and v_d [B, N, D] of projected rows."""
        of_users, of_items = self.weights(matching, sets.user_mask, sets.item_mask)
        common = torch.bmm(of_users.to(sets.users.dtype), sets.users)
        diverse = (of_items.unsqueeze(2).to(sets.items.dtype) @ sets.items).squeeze(2)
        return common, diverse

    def weights(self, matching: Matching, user_mask: Tensor, item_mask: Tensor) -> tuple[Tensor, Tensor]:
        """w_L [B, N, Ku] and w_R [B, N, Ki] for rows that are there [B, Ku] and [B, N, Ki]."""
        if self.pooling is Pooling.CO_INTERACTION:
            return _weights(matching, self.normalisation, user_mask[:, None], item_mask)
        dtype = matching.logits.dtype
        users = user_mask[:, None, :].expand(-1, item_mask.shape[1], -1).to(dtype)
        items = item_mask.to(dtype)
        if self.pooling is not Pooling.SUM:
            users = users / users.sum(-1, keepdim=True).clamp(min=1.0)
            items = items / items.sum(-1, keepdim=True).clamp(min=1.0)
        return (
            torch.zeros_like(users) if self.pooling is Pooling.ITEMS else users,
            torch.zeros_like(items) if self.pooling is Pooling.USERS else items,
        )

    def forward(self, sets: Sets) -> tuple[Tensor, Tensor, Matching]:
        """v_c, v_d [B, N, D] and the matching; callers with repeated rows encode each row once instead."""
        user_towers, users = self.encode_users(sets.users)
        item_towers, items = self.encode_items(sets.items)
        matching = self.match(user_towers, item_towers, sets.cells)
        projected = Sets(users, items, sets.user_mask, sets.item_mask)
        return *self.pool(matching, projected), matching


def pair_exposure_loss(matching: Matching, exposed: Tensor, positive_weight: float = 1.0) -> Tensor:
    """BCE-with-logits of G against Y[a, b] = (look-alike a, recall item b) was exposed; RAR, section 3.

    Mean over the valid cells of an example, then over the examples that have any; zero where none has. Nats.

    Args:
        matching: of B queries and N items.
        exposed: [B, N, Ku, Ki], 0 or 1.
        positive_weight: of exposed cells.
    """
    # A weight of 1 would cost three passes over the cells.
    weight = None if positive_weight == 1.0 else torch.tensor(positive_weight, device=matching.logits.device)
    logits = full_precision(matching.logits)
    each = functional.binary_cross_entropy_with_logits(
        logits, exposed.to(logits.dtype), pos_weight=weight, reduction="none"
    )
    return _mean_of_means(each, matching.cells, (2, 3))


def item_exposure_loss(matching: Matching, exposed: Tensor, positive_weight: float = 1.0) -> Tensor:
    """BCE of the mean over look-alikes a of G[a, b] against Y[b] = (target user, item b) was exposed; all in logs.

    log p = logsumexp_a logsigmoid(z_ab) - log n and log (1 - p) = logsumexp_a logsigmoid(-z_ab) - log n: exact where
    p is nearly 0 or 1. RAR, section 3.

    Args:
        matching: of B queries and N items.
        exposed: [B, N, Ki], 0 or 1.
        positive_weight: of exposed items.
    """
    logits, cells = full_precision(matching.logits), matching.cells
    count = cells.sum(2).clamp(min=1).log()
    empty = torch.finfo(logits.dtype).min

    def log_mean(signed: Tensor) -> Tensor:
        return functional.logsigmoid(signed).masked_fill(~cells, empty).logsumexp(2) - count

    valid = cells.any(2)
    yes, no = (log_mean(signed).masked_fill(~valid, 0.0) for signed in (logits, -logits))
    exposed = exposed.to(logits.dtype)
    return _mean_of_means(-(positive_weight * exposed * yes + (1.0 - exposed) * no), valid, (2,))


@torch.no_grad()
def matched_and_exposed(matching: Matching, exposed: Tensor) -> dict[str, Tensor]:
    """What is logged beside the exposure loss; RAR, section 3: mean(G) and mean(Y) over the valid cells of the batch.

    And the share of its (query, item) rows that have any: the others are ranked without look-alikes or recall items.

    Args:
        matching: of B queries and N items.
        exposed: [B, N, Ku, Ki], 0 or 1.
    """
    cells = matching.cells
    count, rows = summed(cells.sum()).clamp(min=1), cells.flatten(2).any(2)
    return {
        "rar/matched": (full_precision(matching.logits).sigmoid() * cells).sum() / count,
        "rar/exposed": (exposed * cells).sum() / count,
        "rar/covered": rows.sum() / summed(torch.tensor(rows.numel(), device=rows.device)),
    }


def _mean_of_means(each: Tensor, valid: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Mean over valid cells of an example, then over examples with any."""
    count = valid.sum(dims)
    means = (each * valid).sum(dims) / count.clamp(min=1)
    return means.sum() / summed((count > 0).sum()).clamp(min=1)
