"""Behaviour sequence transformer (Chen et al., 2019): the item as one more step of the history."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.ranking.ctr.ctr_model import FieldVectors, check_extra
from corral.ranking.ctr.split_mlp import QueryDropout, SplitMlp
from corral.ranking.history_pooling import mean_pooling


class BST(nn.Module):
    """MLP over [context ; mean of the history's rows ; items ; the target's row ; extra] after one transformer block.

    The block is the paper's: y = LN(x + attention(x)), then LN(y + W2 LeakyReLU(W1 y)), heads over the history
    and the target. What follows is ours. History rows attend to the history alone, not to the target: they
    are then the same for every item of a query and are made once. The target attends to the history and to
    itself, from keys and values that are never copied: 2 N L S multiplications a query, and 4 S^2 + 2 S
    feed_size for each of its rows. Of the history's rows the MLP reads the mean and not all L one after the
    other, so that it has no weights for slots that are padding. A slot's position is its number counted back
    from the target in real items, since the seam has no times; its vector is added to the slot's.

    ReLU in the MLP.

    Args:
        num_history_fields: how many fields a history slot has; the target is the first that many item fields.
            None: all of them.
        heads: attention heads.
        attention_size: of each head; None: the size of a slot over ``heads``, rounded up.
        feed_size: hidden size of the block's feed-forward part; None: as wide as a slot.
        history_length: positions told apart; older items share the last one.
        dropout: in the block and in the MLP.
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
        heads: int = 8,
        attention_size: int | None = None,
        feed_size: int | None = None,
        history_length: int = 50,
        hidden: Sequence[int] = (1024, 512, 256),
        dropout: float = 0.0,
        batch_norm: bool = False,
        num_extra: int = 0,
    ) -> None:
        super().__init__()
        self.num_extra, self.heads, self.history_length = num_extra, heads, history_length
        self.num_history_fields = num_item_fields if num_history_fields is None else num_history_fields
        size = self.num_history_fields * field_size
        width = heads * (-(-size // heads) if attention_size is None else attention_size)
        feed = size if feed_size is None else feed_size
        # Row 0 is the target's, row p that of the p-th item before it.
        self.positions = nn.Parameter(torch.randn(history_length + 1, size) * 0.05)
        self.projection = nn.Linear(size, 3 * width, bias=False)  # queries, keys and values, side by side
        self.attended = nn.Linear(width, size)
        self.feed_in, self.feed_out = nn.Linear(size, feed), nn.Linear(feed, size)
        self.attention_norm, self.feed_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.dropout = QueryDropout(dropout)
        self.mlp = SplitMlp(
            num_context_fields * field_size + size,
            num_item_fields * field_size + size + num_extra,
            hidden,
            dropout=dropout,
            batch_norm=batch_norm,
        )
        self.output = nn.Linear(self.mlp.output_size, 1)
        self.extra = nn.Linear(num_extra, 1, bias=False) if num_extra else None

    def not_decayed(self) -> list[nn.Parameter]:
        """The table of positions; see ``RowWiseAdam``."""
        return [self.positions]

    def forward(self, fields: FieldVectors, history: Tensor, mask: Tensor, extra: Tensor | None = None) -> Tensor:
        """See ``CtrModel``."""
        check_extra(extra, self.num_extra)
        target = fields.items[:, :, : self.num_history_fields].flatten(2)
        pooled, row = self._block(target, history.flatten(2), mask)
        context = torch.cat([fields.context.flatten(2), pooled.unsqueeze(1)], dim=-1)
        parts = [fields.items.flatten(2), row]
        if extra is not None:
            parts.append(extra)
        logits = self.output(self.mlp(context, torch.cat(parts, dim=-1))).squeeze(-1)
        if self.extra is not None and extra is not None:
            logits = logits + self.extra(extra).squeeze(-1)
        return logits

    def _block(self, target: Tensor, history: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """target [B, N, S], history [B, L, S], mask [B, L] -> the history's mean row [B, S], the target's [B, N, S]."""
        back = mask.flip(1).cumsum(1).flip(1).clamp(max=self.history_length)
        slots = history + functional.embedding(back, self.positions)
        target = target + self.positions[0]
        query, key, value = self._heads(target)
        slot_query, slot_key, slot_value = self._heads(slots)
        scale = query.shape[-1] ** -0.5
        hidden = ~mask[:, None, None]
        # A finite fill: where all is padding the weights are equal, and count for nothing in the mean.
        low = torch.finfo(query.dtype).min
        weights = (slot_query @ slot_key.transpose(2, 3) * scale).masked_fill(hidden, low).softmax(dim=-1)
        rows = self._rest(slots, weights @ slot_value)
        on_slots = (query @ slot_key.transpose(2, 3) * scale).masked_fill(hidden, low)
        on_itself = (query * key).sum(-1, keepdim=True) * scale
        weights = torch.cat([on_slots, on_itself], dim=-1).softmax(dim=-1)
        seen = weights[..., :-1] @ slot_value + weights[..., -1:] * value
        return mean_pooling(rows, mask), self._rest(target, seen)

    def _heads(self, vectors: Tensor) -> list[Tensor]:
        """Queries, keys and values [B, heads, L, size of a head] of [B, L, S]."""
        parts = self.projection(vectors).chunk(3, dim=-1)
        return [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts]

    def _rest(self, vectors: Tensor, seen: Tensor) -> Tensor:
        """What follows the attention in a block, row by row."""
        seen = self.attended(seen.transpose(1, 2).flatten(2))
        vectors = self.attention_norm(vectors + self.dropout(seen))
        fed = self.feed_out(functional.leaky_relu(self.feed_in(vectors)))
        return self.feed_norm(vectors + self.dropout(fed))
