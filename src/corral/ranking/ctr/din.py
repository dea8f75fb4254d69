"""Deep interest network (Zhou et al., 2018): the history as the item sees it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from corral.ranking.ctr.ctr_model import FieldVectors, check_extra
from corral.ranking.ctr.split_mlp import SplitMlp
from corral.ranking.history_pooling import TargetAttention


class DIN(nn.Module):
    """MLP over [context ; items ; target attention over the history ; extra].

    ReLU, not the paper's Dice: Dice takes its threshold from the batch, so that a training logit would
    depend on the other items of its batch, and over [B, N, L] it costs more than the matrix products beside
    it.

    Args:
        num_history_fields: how many fields a history slot has; the target is the first that many item fields.
            None: all of them.
        attention_hidden, attention_size, softmax: see ``TargetAttention``.
        num_extra: ``extra`` goes into the MLP and, linearly, straight to the logit: a strong single input
            such as the retriever's score need not be learned through the MLP first.
    """

    uses_history = True

    def __init__(
        self,
        field_size: int,
        num_context_fields: int,
        num_item_fields: int,
        *,
        num_history_fields: int | None = None,
        attention_hidden: Sequence[int] = (32, 16),
        attention_size: int | None = None,
        softmax: bool = False,
        hidden: Sequence[int] = (200, 80),
        dropout: float = 0.0,
        batch_norm: bool = False,
        num_extra: int = 0,
    ) -> None:
        super().__init__()
        self.num_extra = num_extra
        self.num_history_fields = num_item_fields if num_history_fields is None else num_history_fields
        history_size = self.num_history_fields * field_size
        self.attention = TargetAttention(
            history_size, hidden=attention_hidden, attention_size=attention_size, softmax=softmax
        )
        self.mlp = SplitMlp(
            num_context_fields * field_size,
            num_item_fields * field_size + history_size + num_extra,
            hidden,
            dropout=dropout,
            batch_norm=batch_norm,
        )
        self.output = nn.Linear(self.mlp.output_size, 1)
        self.extra = nn.Linear(num_extra, 1, bias=False) if num_extra else None

    def forward(self, fields: FieldVectors, history: Tensor, mask: Tensor, extra: Tensor | None = None) -> Tensor:
        """See ``CtrModel``."""
        check_extra(extra, self.num_extra)
        target = fields.items[:, :, : self.num_history_fields].flatten(2)
        parts = [fields.items.flatten(2), self.attention(target, history.flatten(2), mask)]
        if extra is not None:
            parts.append(extra)
        logits = self.output(self.mlp(fields.context.flatten(2), torch.cat(parts, dim=-1))).squeeze(-1)
        if self.extra is not None and extra is not None:
            logits = logits + self.extra(extra).squeeze(-1)
        return logits
