"""SDIM (Cao et al., 2022): a long history as the sum of what falls into the target's hash buckets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.ranking.ctr.ctr_model import FieldVectors, check_extra
from corral.ranking.ctr.split_mlp import SplitMlp
from corral.ranking.history_hash import HistoryHash
from corral.ranking.history_pooling import TargetAttention

# A group's buckets are all made: 2 to the power of this.
_MAX_WIDTH = 10


class SDIM(nn.Module):
    """MLP over [context ; items ; attention over the latest slots ; buckets ; extra].

    The m bits of a vector are cut into G = m / width groups; vectors that agree on all bits of a group share its
    bucket there. With s_j the history's slots and t the target,

        buckets(t) = (1 / G) sum over groups g of unit(sum over j in t's bucket of g of s_j),

    unit(0) = 0: a slot at the angle a shares a bucket with probability (1 - a / pi)^width, a weight that no parameter
    makes. Where a query has as many targets as a group has buckets, all G 2^width bucket sums are made once, and L is
    in no target's cost.

    Args:
        num_history_fields: how many fields a history slot has; the target is the first that many item fields.
            None: all of them.
        bits: m, a multiple of ``width``.
        width: bits of a group.
        recent: how many of the latest slots are attended to, by DIN's unit, whatever they are.
        attention_hidden, attention_size, softmax: see ``TargetAttention``.
        num_extra: ``extra`` goes into the MLP and, linearly, straight to the logit.
    """

    uses_history = True

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
        super().__init__()
        if not 1 <= width <= _MAX_WIDTH or bits < 1 or bits % width:
            raise ValueError(
                f"bits={bits}, width={width}: width must be in 1 .. {_MAX_WIDTH}, and bits a multiple of it"
            )
        if recent < 1:
            raise ValueError(f"recent={recent}: need at least one slot")
        self.num_extra, self.width, self.recent = num_extra, width, recent
        self.num_history_fields = num_item_fields if num_history_fields is None else num_history_fields
        size = self.num_history_fields * field_size
        self.hash = HistoryHash(size, bits)
        self.latest = TargetAttention(size, hidden=attention_hidden, attention_size=attention_size, softmax=softmax)
        self.mlp = SplitMlp(
            num_context_fields * field_size,
            num_item_fields * field_size + 2 * size + num_extra,
            hidden,
            dropout=dropout,
            batch_norm=batch_norm,
        )
        self.output = nn.Linear(self.mlp.output_size, 1)
        self.extra = nn.Linear(num_extra, 1, bias=False) if num_extra else None

    def forward(self, fields: FieldVectors, history: Tensor, mask: Tensor, extra: Tensor | None = None) -> Tensor:
        """See ``CtrModel``."""
        check_extra(extra, self.num_extra)
        target, slots = fields.items[:, :, : self.num_history_fields].flatten(2), history.flatten(2)
        latest = self.latest(target, slots[:, -self.recent :], mask[:, -self.recent :])
        parts = [fields.items.flatten(2), latest, self.buckets(target, slots, mask)]
        if extra is not None:
            parts.append(extra)
        logits = self.output(self.mlp(fields.context.flatten(2), torch.cat(parts, dim=-1))).squeeze(-1)
        if self.extra is not None and extra is not None:
            logits = logits + self.extra(extra).squeeze(-1)
        return logits

    def buckets(self, target: Tensor, slots: Tensor, mask: Tensor) -> Tensor:
        """target [B, N, S], slots [B, L, S], mask [B, L] -> [B, N, S]; zero where there is no history."""
        own, others = self._bucket_numbers(target), self._bucket_numbers(slots)
        if target.shape[1] < 1 << self.width:  # fewer targets than buckets: only what they share is summed
            shared = (own[:, :, :, None] == others.transpose(1, 2)[:, None]) & mask[:, None, None]
            sums = torch.bmm(shared.flatten(1, 2).to(slots.dtype), slots).unflatten(1, own.shape[1:])
            return functional.normalize(sums, dim=3).mean(2)
        inside = (self._one_hot(others) & mask[:, :, None]).to(slots.dtype)
        sums = functional.normalize(torch.bmm(inside.transpose(1, 2), slots), dim=2)
        return torch.bmm(self._one_hot(own).to(sums.dtype), sums) / own.shape[2]

    def _bucket_numbers(self, vectors: Tensor) -> Tensor:
        """Which bucket of each group a vector falls into: [B, n, S] -> int64 [B, n, G]."""
        worth = 1 << torch.arange(self.width, device=vectors.device)
        return (self.hash(vectors).unflatten(2, (-1, self.width)) * worth).sum(3)

    def _one_hot(self, numbers: Tensor) -> Tensor:
        """[B, n, G] -> bool [B, n, G 2^width]."""
        return (numbers.unsqueeze(3) == torch.arange(1 << self.width, device=numbers.device)).flatten(2)
