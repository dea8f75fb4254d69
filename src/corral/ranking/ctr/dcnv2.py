"""DCN-V2 (Wang et al., 2021): explicit feature crosses by a cross network, beside an MLP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.ranking.ctr.ctr_model import FieldVectors, check_extra
from corral.ranking.ctr.split_mlp import SplitMlp


class CrossNetwork(nn.Module):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, with x_0 = [context ; items].

    W_l is full or, with ``rank``, U_l V_l of that rank. The first layer reads x_0 alone, so the context's
    share of its product is made once per query; later layers mix both sides and are full width.
    """

    def __init__(self, context_size: int, item_size: int, num_layers: int, rank: int | None) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"a cross network needs at least one layer, got {num_layers}")
        self.context_size = context_size
        size = context_size + item_size
        inner = size if rank is None else rank
        self.inner = nn.ModuleList(nn.Linear(size, inner, bias=rank is None) for _ in range(num_layers))
        self.outer = nn.ModuleList(nn.Identity() if rank is None else nn.Linear(inner, size) for _ in range(num_layers))

    def forward(self, context: Tensor, items: Tensor) -> Tensor:
        """context [B, 1, C], items [B, N, I] -> [B, N, C + I]."""
        first = self.inner[0]
        assert isinstance(first, nn.Linear)
        split = self.context_size
        product = functional.linear(items, first.weight[:, split:])
        product = product + functional.linear(context, first.weight[:, :split], first.bias)
        start = torch.cat([context.expand(-1, items.shape[1], -1), items], dim=-1)
        crossed = torch.addcmul(start, start, self.outer[0](product))
        for inner, outer in zip(self.inner[1:], self.outer[1:], strict=True):
            crossed = torch.addcmul(crossed, start, outer(inner(crossed)))
        return crossed


class DCNV2(nn.Module):
    """Cross network and MLP in parallel, one linear layer over both.

    Of the paper's two forms the parallel one: which is better depends on the data there, and here the MLP's
    first layer then still splits into context and item. ``hidden=()`` leaves the cross network alone.
    ``extra`` is
    crossed too: it is part of x_0.
    """

    uses_history = False

    def __init__(
        self,
        field_size: int,
        num_context_fields: int,
        num_item_fields: int,
        *,
        num_cross_layers: int = 2,
        rank: int | None = None,
        hidden: Sequence[int] = (400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        num_extra: int = 0,
    ) -> None:
        super().__init__()
        self.num_extra = num_extra
        context_size, item_size = num_context_fields * field_size, num_item_fields * field_size + num_extra
        self.cross = CrossNetwork(context_size, item_size, num_cross_layers, rank)
        self.mlp = SplitMlp(context_size, item_size, hidden, dropout=dropout, batch_norm=batch_norm) if hidden else None
        deep_size = self.mlp.output_size if self.mlp is not None else 0
        self.output = nn.Linear(context_size + item_size + deep_size, 1)

    def forward(self, fields: FieldVectors, history: Tensor, mask: Tensor, extra: Tensor | None = None) -> Tensor:
        """See ``CtrModel``."""
        check_extra(extra, self.num_extra)
        context, items = fields.context.flatten(2), fields.items.flatten(2)
        if extra is not None:
            items = torch.cat([items, extra], dim=-1)
        joint = self.cross(context, items)
        if self.mlp is not None:
            joint = torch.cat([joint, self.mlp(context, items)], dim=-1)
        return self.output(joint).squeeze(-1)
