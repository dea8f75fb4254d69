"""DeepFM (Guo et al., 2017): a factorisation machine and an MLP over the same fields."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from corral.ranking.ctr.ctr_model import FieldVectors, check_extra
from corral.ranking.ctr.fm import FM
from corral.ranking.ctr.split_mlp import SplitMlp


class DeepFM(nn.Module):
    """FM logit + MLP logit. The MLP reads the factors and ``extra``, the FM weighs ``extra`` linearly.

    As in ``FM``, a field of size D is one first-order weight and D - 1 factors.
    """

    uses_history = False

    def __init__(
        self,
        field_size: int,
        num_context_fields: int,
        num_item_fields: int,
        *,
        hidden: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        num_extra: int = 0,
    ) -> None:
        super().__init__()
        self.fm = FM(field_size, num_context_fields, num_item_fields, num_extra=num_extra)
        factors = field_size - 1
        self.mlp = SplitMlp(
            num_context_fields * factors,
            num_item_fields * factors + num_extra,
            hidden,
            dropout=dropout,
            batch_norm=batch_norm,
        )
        self.output = nn.Linear(self.mlp.output_size, 1, bias=False)

    def forward(self, fields: FieldVectors, history: Tensor, mask: Tensor, extra: Tensor | None = None) -> Tensor:
        """See ``CtrModel``."""
        check_extra(extra, self.fm.num_extra)
        context, items = fields.context[..., 1:].flatten(2), fields.items[..., 1:].flatten(2)
        if extra is not None:
            items = torch.cat([items, extra], dim=-1)
        deep = self.output(self.mlp(context, items)).squeeze(-1)
        return self.fm(fields, history, mask, extra) + deep
