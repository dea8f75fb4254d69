"""FiBiNET (Huang et al., 2019): fields weighed by importance (SENET), and bilinear products of their pairs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from corral.ranking.ctr.ctr_model import FieldVectors, check_extra
from corral.ranking.ctr.split_mlp import SplitMlp


class BilinearPairs(nn.Module):
    """p_ij = (W^T v_i) * v_j for all pairs of fields i < j.

    W is one matrix (``all``), one for each left field i (``each``) or one a pair (``interaction``). Context
    fields come first, so that in pairs across the sides they are the left ones: their products with W are
    made once per query, as are whole pairs within the context.

    Attributes:
        left, right: the fields i and j of each pair: pairs within the context first, across the sides next.
    """

    left: Tensor
    right: Tensor

    def __init__(
        self,
        field_size: int,
        num_context_fields: int,
        num_item_fields: int,
        kind: Literal["all", "each", "interaction"],
    ) -> None:
        super().__init__()
        pairs = list(itertools.combinations(range(num_context_fields + num_item_fields), 2))
        within_context = [pair for pair in pairs if pair[1] < num_context_fields]
        across = [pair for pair in pairs if pair[0] < num_context_fields <= pair[1]]
        within_items = [pair for pair in pairs if pair[0] >= num_context_fields]
        self.num_context_pairs, self.num_item_pairs = len(within_context), len(across) + len(within_items)
        self.kind, self.split = kind, num_context_fields
        ordered = within_context + across + within_items
        number = {"all": lambda pair: 0, "each": lambda pair: pair[0], "interaction": ordered.index}
        if kind not in number:
            raise ValueError(f"bilinear={kind!r}: one of {sorted(number)}")
        matrices = [number[kind](pair) for pair in ordered]
        self.weight = nn.Parameter(torch.empty(max(matrices, default=-1) + 1, field_size, field_size))
        nn.init.normal_(self.weight, std=field_size**-0.5)
        for name, values in (("left", [i for i, _ in ordered]), ("right", [j for _, j in ordered])):
            self.register_buffer(name, torch.tensor(values, dtype=torch.int64), persistent=False)

    def forward(self, context: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """context [B, 1, Fc, D], items [B, N, Fi, D] -> pairs of the context [B, 1, P, D], all others [B, N, P', D]."""
        split, first = self.split, self.num_context_pairs
        crossed = first + split * items.shape[2]
        within = self._projected(context, slice(None, first)) * context.index_select(2, self.right[:first])
        across = self._projected(context, slice(first, crossed)).unflatten(2, (split, items.shape[2]))
        across = (across * items.unsqueeze(2)).flatten(2, 3)
        own = slice(crossed, None)
        among = self._projected(items, own, split) * items.index_select(2, self.right[own] - split)
        return within, torch.cat([across, among], dim=2)

    def _projected(self, fields: Tensor, pairs: slice, offset: int = 0) -> Tensor:
        """The left side of each pair times its matrix: [B, N, P, D], from fields that start at ``offset``."""
        left = self.left[pairs] - offset
        if self.kind == "all":
            return (fields @ self.weight[0]).index_select(2, left) if len(left) else fields[:, :, :0]
        if self.kind == "each":
            weight = self.weight[offset : offset + fields.shape[2]]
            by_field = torch.einsum("bnfd,fde->bnfe", fields[:, :, : len(weight)], weight)
            return by_field.index_select(2, left)
        return torch.einsum("bnpd,pde->bnpe", fields.index_select(2, left), self.weight[pairs])


class FiBiNET(nn.Module):
    """First-order weights + MLP over the bilinear pairs of the fields and of the SENET-weighed fields.

    As in ``FM``, a field of size D is one first-order weight and D - 1 factors. SENET squeezes each field to
    its mean z_f and weighs it by a = ReLU(W2 ReLU(W1 z) + b2); with biases, which are ours, and b2 = 1 at the start:
    fields start near 0, so every field counts alike at first, and none is behind a ReLU that lets no gradient through.
    Both sets of pairs share their matrices (ours), so that weighed
    pairs are a_i a_j p_ij and no product is made twice. ``reduction`` is that of W1's width.

    The MLP's first layer is most of the cost: it reads F (F - 1) (D - 1) inputs a row; pairs within the
    context are shared by the items of a query where they are not weighed.

    Args:
        bilinear: see ``BilinearPairs``.
        num_extra: ``extra`` goes into the MLP and, linearly, straight to the logit.
    """

    uses_history = False

    def __init__(
        self,
        field_size: int,
        num_context_fields: int,
        num_item_fields: int,
        *,
        reduction: int = 3,
        bilinear: Literal["all", "each", "interaction"] = "interaction",
        hidden: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        num_extra: int = 0,
    ) -> None:
        super().__init__()
        num_fields, factors = num_context_fields + num_item_fields, field_size - 1
        if factors < 1:
            raise ValueError(f"FiBiNET needs a weight and a factor in each field: field_size >= 2, got {field_size}")
        if num_fields < 2 or reduction < 1:
            raise ValueError(f"FiBiNET needs two fields and reduction >= 1, got {num_fields} and {reduction}")
        self.num_extra = num_extra
        self.senet = SplitMlp(num_context_fields, num_item_fields, (max(1, num_fields // reduction), num_fields))
        squeeze, excite = self.senet.layers
        nn.init.zeros_(cast(nn.Linear, squeeze).bias)
        nn.init.ones_(cast(nn.Linear, excite).bias)
        self.pairs = BilinearPairs(factors, num_context_fields, num_item_fields, bilinear)
        context_pairs, item_pairs = self.pairs.num_context_pairs, self.pairs.num_item_pairs
        self.mlp = SplitMlp(
            context_pairs * factors,
            (context_pairs + 2 * item_pairs) * factors + num_extra,
            hidden,
            dropout=dropout,
            batch_norm=batch_norm,
        )
        self.output = nn.Linear(self.mlp.output_size, 1)
        self.extra = nn.Linear(num_extra, 1, bias=False) if num_extra else None

    def forward(self, fields: FieldVectors, history: Tensor, mask: Tensor, extra: Tensor | None = None) -> Tensor:
        """See ``CtrModel``."""
        check_extra(extra, self.num_extra)
        context, items = fields.context[..., 1:], fields.items[..., 1:]
        of_context, of_items = self.pairs(context, items)
        importance = self.senet(context.mean(-1), items.mean(-1))
        weights = importance.index_select(2, self.pairs.left) * importance.index_select(2, self.pairs.right)
        split = self.pairs.num_context_pairs
        weighed = weights[:, :, :split, None] * of_context, weights[:, :, split:, None] * of_items
        parts = [part.flatten(2) for part in (of_items, *weighed)]
        if extra is not None:
            parts.append(extra)
        logits = self.output(self.mlp(of_context.flatten(2), torch.cat(parts, dim=-1))).squeeze(-1)
        logits = logits + fields.context[..., 0].sum(2) + fields.items[..., 0].sum(2)
        if self.extra is not None and extra is not None:
            logits = logits + self.extra(extra).squeeze(-1)
        return logits
