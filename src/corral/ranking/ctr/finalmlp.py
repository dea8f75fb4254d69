"""FinalMLP (Mao et al., 2023): two MLPs, each with its own view of the fields, joined by a bilinear form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from corral.ranking.ctr.ctr_model import FieldVectors, check_extra
from corral.ranking.ctr.split_mlp import SplitMlp


class _Gate(nn.Module):
    """2 sigmoid(W2 ReLU(W1 x)): a factor between 0 and 2 for each input of a stream."""

    def __init__(self, size: int, hidden: int, output_size: int) -> None:
        super().__init__()
        self.first = nn.Linear(size, hidden)
        self.output = nn.Linear(hidden, output_size)

    def forward(self, inputs: Tensor) -> Tensor:
        return 2.0 * torch.sigmoid(self.output(torch.relu(self.first(inputs))))


class FinalMLP(nn.Module):
    """w1 o1 + w2 o2 + sum over heads of o1_h W_h o2_h, with o1 and o2 from two MLPs over the fields, h their parts.

    Feature gating: the context alone makes the factors of the first stream's inputs, the item alone those of
    the second's. The first gate costs once per query, and the first stream keeps its split; behind the second
    gate the context differs by item, and the second stream's first layer is whole. Without gating both split.

    Args:
        hidden: of the first stream.
        hidden_second: of the second; None: as the first.
        heads: parts of the bilinear form; must divide both last sizes.
        gating: whether there are gates.
        gate_hidden: width of their hidden layer.
        num_extra: ``extra`` counts among the item's inputs of gates and streams, and goes, linearly, straight
            to the logit.
    """

    uses_history = False

    def __init__(
        self,
        field_size: int,
        num_context_fields: int,
        num_item_fields: int,
        *,
        hidden: Sequence[int] = (400, 400, 400),
        hidden_second: Sequence[int] | None = None,
        heads: int = 1,
        gating: bool = True,
        gate_hidden: int = 64,
        dropout: float = 0.0,
        batch_norm: bool = False,
        num_extra: int = 0,
    ) -> None:
        super().__init__()
        self.num_extra, self.heads = num_extra, heads
        context_size, item_size = num_context_fields * field_size, num_item_fields * field_size + num_extra
        size = context_size + item_size
        # Nothing to gate by without a context.
        self.context_gate = _Gate(context_size, gate_hidden, size) if gating and context_size else None
        self.item_gate = _Gate(item_size, gate_hidden, size) if gating else None
        self.first = SplitMlp(context_size, item_size, hidden, dropout=dropout, batch_norm=batch_norm)
        second = hidden if hidden_second is None else hidden_second
        self.second = SplitMlp(context_size, item_size, second, dropout=dropout, batch_norm=batch_norm)
        sizes = self.first.output_size, self.second.output_size
        if sizes[0] % heads or sizes[1] % heads:
            raise ValueError(f"heads={heads} must divide the last sizes of both streams, {sizes[0]} and {sizes[1]}")
        self.linear_first = nn.Linear(sizes[0], 1)
        self.linear_second = nn.Linear(sizes[1], 1, bias=False)
        self.bilinear = nn.Parameter(torch.empty(heads, sizes[0] // heads, sizes[1] // heads))
        nn.init.normal_(self.bilinear, std=(2.0 * heads / sum(sizes)) ** 0.5)
        self.extra = nn.Linear(num_extra, 1, bias=False) if num_extra else None

    def forward(self, fields: FieldVectors, history: Tensor, mask: Tensor, extra: Tensor | None = None) -> Tensor:
        """See ``CtrModel``."""
        check_extra(extra, self.num_extra)
        context, items = fields.context.flatten(2), fields.items.flatten(2)
        if extra is not None:
            items = torch.cat([items, extra], dim=-1)
        first = self._stream(self.first, self.context_gate, context, context, items)
        second = self._stream(self.second, self.item_gate, items, context, items)
        heads = (self.heads, -1)
        joined = torch.einsum("bnhi,hij->bnhj", first.unflatten(-1, heads), self.bilinear)
        logits = (joined * second.unflatten(-1, heads)).sum((2, 3))
        logits = logits + (self.linear_first(first) + self.linear_second(second)).squeeze(-1)
        if self.extra is not None and extra is not None:
            logits = logits + self.extra(extra).squeeze(-1)
        return logits

    @staticmethod
    def _stream(mlp: SplitMlp, gate: _Gate | None, by: Tensor, context: Tensor, items: Tensor) -> Tensor:
        if gate is not None:
            factors = gate(by)
            context, items = context * factors[..., : context.shape[-1]], items * factors[..., context.shape[-1] :]
        return mlp(context, items)
