"""Logistic regression: one weight per value of a field."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corral.ranking.ctr.ctr_model import FieldVectors, check_extra


class LR(nn.Module):
    """The sum of the fields' weights, a weight for each extra input, and a bias.

    Takes 1-wide fields: the "vector" of a value is its weight. It can order items but not personalise them
    (no term depends on the query and the item both, but for ``extra``): the yardstick of interactions.
    """

    uses_history = False

    def __init__(self, field_size: int, num_context_fields: int, num_item_fields: int, *, num_extra: int = 0) -> None:
        super().__init__()
        if field_size != 1:
            raise ValueError(f"LR takes fields of size 1, got field_size={field_size}")
        self.num_extra = num_extra
        self.bias = nn.Parameter(torch.zeros(()))
        self.extra = nn.Linear(num_extra, 1, bias=False) if num_extra else None

    def forward(self, fields: FieldVectors, history: Tensor, mask: Tensor, extra: Tensor | None = None) -> Tensor:
        """See ``CtrModel``."""
        check_extra(extra, self.num_extra)
        logits = fields.context.sum((2, 3)) + fields.items.sum((2, 3)) + self.bias
        if self.extra is not None and extra is not None:
            logits = logits + self.extra(extra).squeeze(-1)
        return logits
