"""Factorisation machine (Rendle, 2010): first-order weights and all pairwise inner products."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corral.ranking.ctr.ctr_model import FieldVectors, check_extra


def fm_logits(fields: FieldVectors) -> Tensor:
    """First-order and pairwise terms [B, N] of fields [w ; v]: sum of w + sum over pairs a < b of <v_a, v_b>.

    Coordinate 0 of a field is its first-order weight w, the others its factor v, so one look-up serves both.
    With S the sum of a side's factors, the pairs across the sides are <S_context, S_items>; the pairs within
    a side are (|S|^2 - sum |v|^2) / 2 and cost the context B times, not B * N times.
    """
    weights = fields.context[..., 0].sum(2) + fields.items[..., 0].sum(2)
    context, items = fields.context[..., 1:], fields.items[..., 1:]
    context_sum, item_sum = context.sum(2), items.sum(2)
    within_context = context_sum.square().sum(-1) - context.square().sum((2, 3))
    within_items = item_sum.square().sum(-1) - items.square().sum((2, 3))
    across = (item_sum @ context_sum.transpose(1, 2)).squeeze(-1)
    return weights + across + 0.5 * (within_context + within_items)


class FM(nn.Module):
    """A field of size D is one first-order weight and D - 1 factors; ``extra`` enters linearly."""

    uses_history = False

    def __init__(self, field_size: int, num_context_fields: int, num_item_fields: int, *, num_extra: int = 0) -> None:
        super().__init__()
        if field_size < 2:
            raise ValueError(f"FM needs a weight and a factor in each field: field_size >= 2, got {field_size}")
        self.num_extra = num_extra
        self.bias = nn.Parameter(torch.zeros(()))
        self.extra = nn.Linear(num_extra, 1, bias=False) if num_extra else None

    def forward(self, fields: FieldVectors, history: Tensor, mask: Tensor, extra: Tensor | None = None) -> Tensor:
        """See ``CtrModel``."""
        check_extra(extra, self.num_extra)
        logits = fm_logits(fields) + self.bias
        if self.extra is not None and extra is not None:
            logits = logits + self.extra(extra).squeeze(-1)
        return logits
