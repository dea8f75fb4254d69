"""MaskNet (Wang et al., 2021): every row multiplies its own layers by a mask made from its fields."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.ranking.ctr.ctr_model import FieldVectors, check_extra
from corral.ranking.ctr.split_mlp import QueryDropout, SplitMlp


class MaskBlock(nn.Module):
    """ReLU(LN(W (mask * x))) with the instance-guided mask W2 ReLU(W1 e + b1) + b2 of all inputs e.

    Args:
        context_size, item_size: of e.
        input_size: of x.
        size: of the result.
        reduction: W1 is so many times as wide as x.
    """

    def __init__(self, context_size: int, item_size: int, input_size: int, size: int, reduction: float) -> None:
        super().__init__()
        self.guide = SplitMlp(context_size, item_size, (max(1, round(reduction * input_size)),))
        self.mask = nn.Linear(self.guide.output_size, input_size)
        self.layer = nn.Linear(input_size, size, bias=False)
        self.norm = nn.LayerNorm(size)

    def forward(self, context: Tensor, items: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        """[B, N, size].

        Args:
            context, items: e, [B, 1, C] and [B, N, I].
            inputs: x in pieces [B, N or 1, ...] that follow one another.
        """
        mask = self.mask(self.guide(context, items))
        pieces = mask.split([piece.shape[-1] for piece in inputs], dim=-1)
        masked = [piece * part for piece, part in zip(inputs, pieces, strict=True)]
        return torch.relu(self.norm(self.layer(masked[0] if len(masked) == 1 else torch.cat(masked, dim=-1))))


class MaskNet(nn.Module):
    """Mask blocks side by side under an MLP (``parallel``), or one upon the other under a linear layer.

    The first (parallel: every) block's x are the fields, each normalised by a layer norm of its own: of the
    context once per query. Masks are made from the fields as they came, so that every one of the row's
    inputs bears on every product: W1's share of the context is shared by the items, nothing after it can be.

    Args:
        blocks: mask blocks.
        block_size: width of each.
        reduction: see ``MaskBlock``; most of the cost is in the masks, 2 reduction (F D)^2 a row for each
            parallel block.
        hidden, batch_norm: of the MLP over parallel blocks; the serial form has none.
        dropout: after the MLP's layers; in the serial form after each block.
        num_extra: ``extra`` guides the masks, goes into the MLP (the linear layer of the serial form) and,
            linearly, straight to the logit.
    """

    uses_history = False

    def __init__(
        self,
        field_size: int,
        num_context_fields: int,
        num_item_fields: int,
        *,
        parallel: bool = True,
        blocks: int = 3,
        block_size: int = 64,
        reduction: float = 2.0,
        hidden: Sequence[int] = (400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
        num_extra: int = 0,
    ) -> None:
        super().__init__()
        if blocks < 1 or reduction <= 0:
            raise ValueError(f"MaskNet needs a block and a reduction above 0, got blocks={blocks}, {reduction=}")
        self.num_extra = num_extra
        num_fields = num_context_fields + num_item_fields
        self.norm_weight = nn.Parameter(torch.ones(num_fields, field_size))
        self.norm_bias = nn.Parameter(torch.zeros(num_fields, field_size))
        self.split = num_context_fields
        context_size, item_size = num_context_fields * field_size, num_item_fields * field_size + num_extra
        first = num_fields * field_size
        sizes = [first] * blocks if parallel else [first] + [block_size] * (blocks - 1)
        self.blocks = nn.ModuleList(MaskBlock(context_size, item_size, size, block_size, reduction) for size in sizes)
        self.mlp = (
            SplitMlp(0, blocks * block_size + num_extra, hidden, dropout=dropout, batch_norm=batch_norm)
            if parallel
            else None
        )
        self.dropout = QueryDropout(dropout)
        self.output = nn.Linear(self.mlp.output_size if self.mlp is not None else block_size, 1)
        self.extra = nn.Linear(num_extra, 1, bias=False) if num_extra else None

    def not_decayed(self) -> list[nn.Parameter]:
        """The norms of the fields; see ``RowWiseAdam``."""
        return [self.norm_weight, self.norm_bias]

    def forward(self, fields: FieldVectors, history: Tensor, mask: Tensor, extra: Tensor | None = None) -> Tensor:
        """See ``CtrModel``."""
        check_extra(extra, self.num_extra)
        context, items = fields.context.flatten(2), fields.items.flatten(2)
        if extra is not None:
            items = torch.cat([items, extra], dim=-1)
        size = fields.items.shape[-1:]
        normed = [
            torch.addcmul(bias, functional.layer_norm(side, size), weight).flatten(2)
            for side, weight, bias in (
                (fields.context, self.norm_weight[: self.split], self.norm_bias[: self.split]),
                (fields.items, self.norm_weight[self.split :], self.norm_bias[self.split :]),
            )
        ]
        if self.mlp is not None:
            parts = [block(context, items, normed) for block in self.blocks]
            if extra is not None:
                parts.append(extra)
            joint = torch.cat(parts, dim=-1)
            joint = self.mlp(joint[:, :1, :0], joint)
        else:
            inputs = normed
            for block in self.blocks:
                joint = self.dropout(block(context, items, inputs))
                inputs = [joint]
        logits = self.output(joint).squeeze(-1)
        if self.extra is not None and extra is not None:
            logits = logits + self.extra(extra).squeeze(-1)
        return logits
