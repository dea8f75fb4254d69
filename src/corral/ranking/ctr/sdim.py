"""SDIM (Cao et al., 2022): a long history as the sum of what falls into the target's hash buckets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from corral.ranking.ctr.interest_model import InterestModel
from corral.ranking.history_hash import HistoryHash
from corral.ranking.history_pooling import TargetAttention

# A group's buckets are all made: 2 to the power of this.
_MAX_WIDTH = 10
# Sums of slots below this length are no direction yet; embeddings of some fields start out ten times as long.
_SHORTEST = 0.03


class SDIM(InterestModel):
    """MLP over [context ; items ; attention over the latest slots ; buckets ; extra].

    The m bits of a vector are cut into G = m / width groups; vectors that agree on all bits of a group share its
    bucket there. With s_j the history's slots and t the target,

        buckets(t) = (1 / G) sum over groups g of unit(sum over j in t's bucket of g of s_j),

    unit(v) = v / sqrt(|v|^2 + .03^2), 0 for 0: a slot at the angle a shares a bucket with probability (1 - a /
    pi)^width, a weight that no parameter makes. Where a query has as many targets as a group has buckets, all G
    2^width bucket sums are made once, and L is in no target's cost.

    Args:
        num_history_fields: see ``InterestModel``.
        bits: m, a multiple of ``width``.
        width: bits of a group.
        recent: how many of the latest slots are attended to, by DIN's unit, whatever they are.
        attention_hidden, attention_size, softmax: see ``TargetAttention``.
    """

    def __init__(
        self,
        field_size: int,
        num_context_fields: int,
        num_item_fields: int,
        *,
        num_history_fields: int | None = None,
        bits: int = 48,
        width: int = 3,
        recent: int = 10,
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
        if not 1 <= width <= _MAX_WIDTH or bits < 1 or bits % width:
            raise ValueError(
                f"bits={bits}, width={width}: width must be in 1 .. {_MAX_WIDTH}, and bits a multiple of it"
            )
        if recent < 1:
            raise ValueError(f"recent={recent}: need at least one slot")
        self.width, self.recent = width, recent
        size = self.slot_size
        self.hash = HistoryHash(size, bits)
        self.latest = TargetAttention(size, hidden=attention_hidden, attention_size=attention_size, softmax=softmax)
        self.add_mlp(2 * size, hidden, dropout=dropout, batch_norm=batch_norm)

    def interest(self, target: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """See ``InterestModel``: the latest slots', then the buckets'."""
        latest = self.latest(target, history[:, -self.recent :], mask[:, -self.recent :])
        return torch.cat([latest, self.buckets(target, history, mask)], 2)

    def buckets(self, target: Tensor, slots: Tensor, mask: Tensor) -> Tensor:
        """target [B, N, S], slots [B, L, S], mask [B, L] -> [B, N, S]; zero where there is no history."""
        own, others = self._bucket_numbers(target), self._bucket_numbers(slots)
        # Fewer targets than buckets: only what they share is summed. Compiled is what any number of targets can take.
        if not torch.compiler.is_compiling() and target.shape[1] < 1 << self.width:
            shared = (own[:, :, :, None] == others.transpose(1, 2)[:, None]) & mask[:, None, None]
            sums = torch.bmm(shared.flatten(1, 2).to(slots.dtype), slots).unflatten(1, own.shape[1:])
            return _unit(sums).mean(2)
        inside = (self._one_hot(others) & mask[:, :, None]).to(slots.dtype)
        sums = _unit(torch.bmm(inside.transpose(1, 2), slots))
        return torch.bmm(self._one_hot(own).to(sums.dtype), sums) / own.shape[2]

    def _bucket_numbers(self, vectors: Tensor) -> Tensor:
        """Which bucket of each group a vector falls into: [B, n, S] -> int64 [B, n, G]."""
        worth = 1 << torch.arange(self.width, device=vectors.device)
        return (self.hash(vectors).unflatten(2, (-1, self.width)) * worth).sum(3)

    def _one_hot(self, numbers: Tensor) -> Tensor:
        """[B, n, G] -> bool [B, n, G 2^width]."""
        return (numbers.unsqueeze(3) == torch.arange(1 << self.width, device=numbers.device)).flatten(2)


def _unit(sums: Tensor) -> Tensor:
    """Sums of buckets [..., S] at length 1, all but the shortest: a bucket of items that are zero still (UNKNOWN's row
    at the start) has no direction, and the gradient of one would have no bounds."""
    return sums * (sums.square().sum(-1, keepdim=True) + _SHORTEST**2).rsqrt()
