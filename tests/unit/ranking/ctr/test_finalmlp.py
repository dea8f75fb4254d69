from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from corral.ranking.ctr.finalmlp import FinalMLP


def gate(layers: nn.Module, inputs: np.ndarray) -> np.ndarray:
    first, output = layers.first, layers.output
    hidden = np.maximum(first.weight.detach().numpy() @ inputs + first.bias.detach().numpy(), 0.0)
    return 2.0 / (1.0 + np.exp(-(output.weight.detach().numpy() @ hidden + output.bias.detach().numpy())))


@pytest.mark.parametrize("gating", [True, False])
@pytest.mark.parametrize("num_context", [0, 2])
@pytest.mark.parametrize(("heads", "second"), [(1, None), (2, (6,))])
def test_equals_two_streams_and_their_bilinear_form(
    vectors, loop_mlp, gating: bool, num_context: int, heads: int, second: tuple[int, ...] | None
) -> None:
    fields, history, mask = vectors(num_context=num_context)
    extra = torch.randn(4, 6, 2, dtype=torch.float64)
    model = FinalMLP(
        5,
        num_context,
        3,
        hidden=(8, 4),
        hidden_second=second,
        heads=heads,
        gating=gating,
        gate_hidden=7,
        num_extra=2,
    ).double()
    got = model(fields, history, mask, extra)
    for b in range(4):
        for n in range(6):
            context, inputs = fields.context[b, 0].numpy().ravel(), extra[b, n].numpy()
            item = np.concatenate([fields.items[b, n].numpy().ravel(), inputs])
            row = np.concatenate([context, item])
            gated = gating and num_context > 0
            first = loop_mlp(model.first.layers, row * gate(model.context_gate, context) if gated else row)
            second_row = row * gate(model.item_gate, item) if gating else row
            other = loop_mlp(model.second.layers, second_row)
            want = float(model.linear_first.weight[0].detach().numpy() @ first) + model.linear_first.bias.item()
            want += float(model.linear_second.weight[0].detach().numpy() @ other)
            for h, matrix in enumerate(model.bilinear.detach().numpy()):
                rows, columns = matrix.shape
                want += float(first[h * rows : (h + 1) * rows] @ matrix @ other[h * columns : (h + 1) * columns])
            want += float(model.extra.weight[0].detach().numpy() @ inputs)
            assert abs(got[b, n].item() - want) < 1e-10


def test_learns_exclusive_or(exclusive_or) -> None:
    def build(fields):
        return FinalMLP(6, fields.num_context_fields, fields.num_item_fields, hidden=(16,), heads=2)

    assert exclusive_or(build, 6) > 0.95


def test_refuses_heads_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match=r"heads=3 must divide .* 8 and 6"):
        FinalMLP(5, 2, 3, hidden=(8,), hidden_second=(6,), heads=3)
