"""ETA (Chen et al., 2021): target attention over the few slots of a long history that a hash finds near the target."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from corral.ranking.ctr.interest_model import InterestModel
from corral.ranking.history_hash import HistoryHash
from corral.ranking.history_pooling import TargetAttention


class ETA(InterestModel):
    """MLP over [context ; items ; attention over the latest slots ; attention over the nearest slots ; extra].

    The nearest are those whose bits agree with the target's most, of equal ones the latest. What is attended to costs
    ``recent`` + ``nearest`` slots a target however long the history is; finding them costs L m additions. Both
    attentions are DIN's unit, where the paper takes scaled products: then nothing but the search is different from
    ``DIN``.

    Args:
        num_history_fields: see ``InterestModel``.
        nearest: how many slots the search keeps.
        recent: how many of the latest slots are attended to whatever they are.
        bits: m of ``HistoryHash``.
        attention_hidden, attention_size, softmax: see ``TargetAttention``.
    """

    def __init__(
        self,
        field_size: int,
        num_context_fields: int,
        num_item_fields: int,
        *,
        num_history_fields: int | None = None,
        nearest: int = 10,
        recent: int = 10,
        bits: int = 48,
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
        if min(nearest, recent) < 1:
            raise ValueError(f"nearest={nearest}, recent={recent}: need at least one slot each")
        self.nearest, self.recent = nearest, recent
        size = self.slot_size
        self.hash = HistoryHash(size, bits)
        self.latest, self.found = (
            TargetAttention(size, hidden=attention_hidden, attention_size=attention_size, softmax=softmax)
            for _ in range(2)
        )
        self.add_mlp(2 * size, hidden, dropout=dropout, batch_norm=batch_norm)

    def interest(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """See ``InterestModel``: the latest slots', then the nearest ones'."""
        latest = self.latest(target, history[:, -self.recent :], mask[:, -self.recent :])
        return torch.cat([latest, self._attend_to_nearest(target, history, mask)], 2)

    def _attend_to_nearest(self, target: Tensor, slots: Tensor, mask: Tensor) -> Tensor:
        """target [B, N, S], slots [B, L, S], mask [B, L] -> [B, N, S]; zero where there is no history."""
        queries, length = mask.shape
        if length == 0:
            return torch.zeros_like(target)
        at = self.search(target, slots, mask)
        there, found = mask.gather(1, at.flatten(1)).flatten(), at.shape[2]
        at = (at + length * torch.arange(queries, device=at.device)[:, None, None]).flatten()
        # Every target is a query of its own now, with a history of its own.
        near = slots.flatten(0, 1).index_select(0, at).view(target.shape[0] * target.shape[1], found, slots.shape[2])
        attended: Tensor = self.found(target.flatten(0, 1).unsqueeze(1), near, there.view(near.shape[:2]))
        return attended.view_as(target)

    @torch.no_grad()
    def search(self, target: Tensor, slots: Tensor, mask: Tensor) -> Tensor:
        """The slots nearest to each target [B, N, min(nearest, L)], the nearest **last**, missing ones first.

        Args:
            target: [B, N, S].
            slots: [B, L, S].
            mask: [B, L].
        """
        length = mask.shape[1]
        # As +1 and -1 their product is what agrees less what does not: exact, it is a small whole number.
        signs = [2.0 * self.hash(vectors).float() - 1.0 for vectors in (target, slots)]
        with torch.autocast(target.device.type, enabled=False):
            agreement = torch.bmm(signs[0], signs[1].transpose(1, 2)).long()
        order = agreement * length + torch.arange(length, device=mask.device)
        order = order.masked_fill(~mask[:, None], torch.iinfo(order.dtype).min)
        return order.topk(min(self.nearest, length), dim=2).indices.flip(2)
