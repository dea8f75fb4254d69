"""What models of the history share: the fields and one vector of what the history says to the target, under an MLP.

Shape letters: see ``ctr_model``; I interest size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from corral.ranking.ctr.ctr_model import FieldVectors, check_extra
from corral.ranking.ctr.split_mlp import SplitMlp


class InterestModel(nn.Module):
    """MLP over [context ; items ; interest ; extra]: DIN, DIEN, ETA and SDIM differ in ``interest`` alone.

    ``extra`` goes into the MLP and, linearly, straight to the logit: a strong single input such as the retriever's
    score need not be learned through the MLP first.

    Args:
        field_size, num_context_fields, num_item_fields, num_extra: see ``CtrModel``.
        num_history_fields: how many fields a history slot has; the target is the first that many item fields.
            None: all of them.
    """

    uses_history = True

    def __init__(
        self,
        field_size: int,
        num_context_fields: int,
        num_item_fields: int,
        *,
        num_history_fields: int | None,
        num_extra: int,
    ) -> None:
        super().__init__()
        self.num_extra = num_extra
        self.num_history_fields = num_item_fields if num_history_fields is None else num_history_fields
        self.slot_size = self.num_history_fields * field_size
        self._sizes = num_context_fields * field_size, num_item_fields * field_size

    def add_mlp(self, interest_size: int, hidden: Sequence[int], *, dropout: float, batch_norm: bool) -> None:
        """Makes what follows the interest; a model calls it once its own parts are there.

        Args:
            interest_size: I.
            hidden, dropout, batch_norm: see ``SplitMlp``.
        """
        context, items = self._sizes
        self.mlp = SplitMlp(
            context, items + interest_size + self.num_extra, hidden, dropout=dropout, batch_norm=batch_norm
        )
        self.output = nn.Linear(self.mlp.output_size, 1)
        self.extra = nn.Linear(self.num_extra, 1, bias=False) if self.num_extra else None

    def interest(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """target [B, N, S], history [B, L, S], mask [B, L] -> [B, N, I]; zero where there is no history."""
        raise NotImplementedError

    def forward(self, fields: FieldVectors, history: Tensor, mask: Tensor, extra: Tensor | None = None) -> Tensor:
        """See ``CtrModel``."""
        check_extra(extra, self.num_extra)
        target = fields.items[:, :, : self.num_history_fields].flatten(2)
        parts = [fields.items.flatten(2), self.interest(target, history.flatten(2), mask)]
        if extra is not None:
            parts.append(extra)
        logits = self.output(self.mlp(fields.context.flatten(2), torch.cat(parts, dim=-1))).squeeze(-1)
        if self.extra is not None and extra is not None:
            logits = logits + self.extra(extra).squeeze(-1)
        return logits
