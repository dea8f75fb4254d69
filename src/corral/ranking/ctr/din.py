"""Deep interest network (Zhou et al., 2018): the history as the item sees it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from corral.ranking.ctr.interest_model import InterestModel
from corral.ranking.history_pooling import TargetAttention


class DIN(InterestModel):
    """MLP over [context ; items ; target attention over the history ; extra].

    ReLU, not the paper's Dice: Dice takes its threshold from the batch, so that a training logit would
    depend on the other items of its batch, and over [B, N, L] it costs more than the matrix products beside
    it.

    Args:
        num_history_fields: see ``InterestModel``.
        attention_hidden, attention_size, softmax: see ``TargetAttention``.
    """

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
        super().__init__(
            field_size,
            num_context_fields,
            num_item_fields,
            num_history_fields=num_history_fields,
            num_extra=num_extra,
        )
        self.attention = TargetAttention(
            self.slot_size, hidden=attention_hidden, attention_size=attention_size, softmax=softmax
        )
        self.add_mlp(self.slot_size, hidden, dropout=dropout, batch_norm=batch_norm)

    def interest(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """See ``InterestModel``."""
        return self.attention(target, history, mask)
