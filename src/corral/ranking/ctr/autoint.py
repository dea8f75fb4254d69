"""AutoInt (Song et al., 2019): self-attention over the fields, layer upon layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from corral.ranking.ctr.ctr_model import FieldVectors, check_extra
from corral.ranking.ctr.split_mlp import SplitMlp


class InteractingLayer(nn.Module):
    """e_i -> ReLU([sum over j of softmax_j(<Q_h e_i, K_h e_j>) V_h e_j, all heads h] + R e_i).

    Logits are plain inner products, as in the paper. A layer makes four products of a field: 4 F size heads
    attention_size multiplications a row, of which the first layer makes the context's once per query.
    """

    def __init__(self, size: int, heads: int, attention_size: int) -> None:
        super().__init__()
        self.heads = heads
        self.output_size = heads * attention_size
        # Queries, keys, values and residuals, side by side.
        self.projection = nn.Linear(size, 4 * self.output_size, bias=False)

    def forward(self, context: Tensor, items: Tensor) -> Tensor:
        """context [B, 1, Fc, S], items [B, N, Fi, S] -> [B, N, Fc + Fi, heads * attention_size]."""
        shared = self.projection(context).expand(-1, items.shape[1], -1, -1)
        return self._attend(torch.cat([shared, self.projection(items)], dim=2))

    def deeper(self, fields: Tensor) -> Tensor:
        """The same where every field already depends on the item: [B, N, F, S] -> [B, N, F, S']."""
        return self._attend(self.projection(fields))

    def _attend(self, projected: Tensor) -> Tensor:
        queries, keys, values, residuals = projected.chunk(4, dim=-1)
        heads = (self.heads, -1)
        queries, keys, values = (part.unflatten(-1, heads).transpose(2, 3) for part in (queries, keys, values))
        # Keys by queries: over a last axis as short as the number of fields a softmax on a CPU is five times slower.
        weights = (keys @ queries.transpose(-1, -2)).softmax(dim=-2)
        return torch.relu((weights.transpose(-1, -2) @ values).transpose(2, 3).flatten(3) + residuals)


class AutoInt(nn.Module):
    """One linear layer over [all fields after the last interacting layer ; MLP over the fields as they came].

    With an MLP it is the paper's AutoInt+; ``hidden=()`` leaves the attention alone.

    Args:
        layers: interacting layers.
        heads: heads of each.
        attention_size: d', of each head; None: the field size.
        num_extra: ``extra`` goes into the MLP and, linearly, straight to the logit.
    """

    uses_history = False

    def __init__(
        self,
        field_size: int,
        num_context_fields: int,
        num_item_fields: int,
        *,
        layers: int = 3,
        heads: int = 2,
        attention_size: int | None = 32,
        hidden: Sequence[int] = (400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        num_extra: int = 0,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"AutoInt needs at least one interacting layer, got layers={layers}")
        self.num_extra = num_extra
        width = field_size if attention_size is None else attention_size
        sizes = [field_size] + [heads * width] * (layers - 1)
        self.layers = nn.ModuleList(InteractingLayer(size, heads, width) for size in sizes)
        context_size, item_size = num_context_fields * field_size, num_item_fields * field_size + num_extra
        self.mlp = SplitMlp(context_size, item_size, hidden, dropout=dropout, batch_norm=batch_norm) if hidden else None
        deep_size = self.mlp.output_size if self.mlp is not None else 0
        self.output = nn.Linear((num_context_fields + num_item_fields) * heads * width + deep_size, 1)
        self.extra = nn.Linear(num_extra, 1, bias=False) if num_extra else None

    def forward(self, fields: FieldVectors, history: Tensor, mask: Tensor, extra: Tensor | None = None) -> Tensor:
        """See ``CtrModel``."""
        check_extra(extra, self.num_extra)
        first, *rest = self.layers
        assert isinstance(first, InteractingLayer)
        attended = first(fields.context, fields.items)
        for layer in rest:
            assert isinstance(layer, InteractingLayer)
            attended = layer.deeper(attended)
        joint = attended.flatten(2)
        if self.mlp is not None:
            items = fields.items.flatten(2)
            if extra is not None:
                items = torch.cat([items, extra], dim=-1)
            joint = torch.cat([joint, self.mlp(fields.context.flatten(2), items)], dim=-1)
        logits = self.output(joint).squeeze(-1)
        if self.extra is not None and extra is not None:
            logits = logits + self.extra(extra).squeeze(-1)
        return logits
