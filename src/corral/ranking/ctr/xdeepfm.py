"""xDeepFM (Lian et al., 2018): explicit crosses of growing order, coordinate by coordinate (CIN), beside an MLP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from corral.ranking.ctr.ctr_model import FieldVectors, check_extra
from corral.ranking.ctr.split_mlp import SplitMlp


def _crossed(left: Tensor, right: Tensor, weight: Tensor) -> Tensor:
    """Sum over i, j of weight_kij left_i * right_j: [B, D, N, I], [B, D, M, J], [K, I, J] -> [B, D, N, K].

    M is N, or 1 for what the items of a query share. Shared fields are summed into one matrix [I, K] for each
    query and coordinate first where that is smaller than all products: J fields then cost what one does.
    """
    (queries, size, items, inner), columns, maps = left.shape, right.shape[3], weight.shape[0]
    # What the number of items decides cannot be compiled for any number.
    if right.shape[2] == 1 and (torch.compiler.is_compiling() or maps < items * columns):
        mixed = right.squeeze(2) @ weight.permute(2, 1, 0).flatten(1)
        return left @ mixed.view(queries, size, inner, maps)
    products = left.unsqueeze(-1) * right.unsqueeze(-2)
    return products.flatten(3) @ weight.flatten(1).t()


class CompressedInteraction(nn.Module):
    """CIN: X^k_h = sum over i, j of W^k_hij X^{k-1}_i * X^0_j, X^0 the fields; every map summed over its coordinates.

    Without an activation between the layers and with every layer's maps given out whole, as in the paper's
    experiments. The first layer's pairs within the context are made once per query. The last layer is needed
    as sums alone, sum of W_hij <X_i, X^0_j>: a D-th of the work.

    Args:
        sizes: feature maps of each layer; layer k makes crosses of order k + 1.
    """

    def __init__(self, num_context_fields: int, num_item_fields: int, sizes: Sequence[int]) -> None:
        super().__init__()
        if not sizes:
            raise ValueError("cin must name at least one layer size, got ()")
        fields = num_context_fields + num_item_fields
        self.split = num_context_fields
        self.output_size = sum(sizes)
        self.weights = nn.ParameterList(
            torch.randn(size, previous, fields) * (2.0 / (previous * fields + size)) ** 0.5
            for previous, size in zip([fields, *sizes], sizes, strict=False)
        )

    def forward(self, context: Tensor, items: Tensor) -> Tensor:
        """context [B, 1, Fc, D], items [B, N, Fi, D] -> [B, N, sum of sizes]."""
        split = self.split
        # Coordinates beside the queries, so that whatever the items share is one matrix product for all of them.
        context, items = context.permute(0, 3, 1, 2), items.permute(0, 3, 1, 2)
        *earlier, last = self.weights
        pooled, state = [], torch.cat([context.expand(-1, -1, items.shape[2], -1), items], dim=3)
        for number, weight in enumerate(earlier):
            if number == 0:
                state = _crossed(context, context, weight[:, :split, :split])
                across = weight[:, split:, :split] + weight[:, :split, split:].transpose(1, 2)
                state = state + _crossed(items, context, across)
                state = state + _crossed(items, items, weight[:, split:, split:])
            else:
                state = _crossed(state, context, weight[..., :split]) + _crossed(state, items, weight[..., split:])
            pooled.append(state.sum(1))
        shared = torch.einsum("bdni,bdj->bnij", state, context.squeeze(2))
        own = torch.einsum("bdni,bdnj->bnij", state, items)
        pooled.append(torch.cat([shared, own], dim=3).flatten(2) @ last.flatten(1).t())
        return torch.cat(pooled, dim=-1)


class XDeepFM(nn.Module):
    """First-order weights + linear layer over [CIN ; MLP].

    As in ``FM``, a field of size D is one first-order weight and D - 1 factors. ``hidden=()`` leaves CIN and
    the weights alone.

    Args:
        cin: feature maps of each CIN layer. Cost a row: D F times the sum of products of neighbouring sizes.
        num_extra: ``extra`` goes into the MLP and, linearly, straight to the logit.
    """

    uses_history = False

    def __init__(
        self,
        field_size: int,
        num_context_fields: int,
        num_item_fields: int,
        *,
        cin: Sequence[int] = (200, 200, 200),
        hidden: Sequence[int] = (400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        num_extra: int = 0,
    ) -> None:
        super().__init__()
        if field_size < 2:
            raise ValueError(f"xDeepFM needs a weight and a factor in each field: field_size >= 2, got {field_size}")
        self.num_extra = num_extra
        self.cin = CompressedInteraction(num_context_fields, num_item_fields, cin)
        context_size = num_context_fields * (field_size - 1)
        item_size = num_item_fields * (field_size - 1) + num_extra
        self.mlp = SplitMlp(context_size, item_size, hidden, dropout=dropout, batch_norm=batch_norm) if hidden else None
        deep_size = self.mlp.output_size if self.mlp is not None else 0
        self.output = nn.Linear(self.cin.output_size + deep_size, 1)
        self.extra = nn.Linear(num_extra, 1, bias=False) if num_extra else None

    def forward(self, fields: FieldVectors, history: Tensor, mask: Tensor, extra: Tensor | None = None) -> Tensor:
        """See ``CtrModel``."""
        check_extra(extra, self.num_extra)
        context, items = fields.context[..., 1:], fields.items[..., 1:]
        joint = self.cin(context, items)
        if self.mlp is not None:
            inputs = items.flatten(2)
            if extra is not None:
                inputs = torch.cat([inputs, extra], dim=-1)
            joint = torch.cat([joint, self.mlp(context.flatten(2), inputs)], dim=-1)
        logits = self.output(joint).squeeze(-1) + fields.context[..., 0].sum(2) + fields.items[..., 0].sum(2)
        if self.extra is not None and extra is not None:
            logits = logits + self.extra(extra).squeeze(-1)
        return logits
