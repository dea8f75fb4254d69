from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from corral.ranking.ctr.masknet import MaskNet


def normed(row: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return (row - row.mean()) / np.sqrt(row.var() + 1e-5) * weight + bias


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("num_context", [0, 2])
def test_equals_masks_row_by_row(vectors, loop_mlp, parallel: bool, num_context: int) -> None:
    fields, history, mask = vectors(num_context=num_context)
    extra = torch.randn(4, 6, 2, dtype=torch.float64)
    model = MaskNet(
        5, num_context, 3, parallel=parallel, blocks=3, block_size=4, reduction=1.5, hidden=(8, 4), num_extra=2
    ).double()
    for layer in model.modules():
        if isinstance(layer, nn.LayerNorm):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    nn.init.normal_(model.norm_weight)
    nn.init.normal_(model.norm_bias)
    got = model(fields, history, mask, extra)

    def arrays(*parameters: nn.Parameter) -> list[np.ndarray]:
        return [parameter.detach().numpy() for parameter in parameters]

    for b in range(4):
        for n in range(6):
            inputs = extra[b, n].numpy()
            rows = np.concatenate([fields.context[b, 0].numpy(), fields.items[b, n].numpy()])
            field_weight, field_bias = arrays(model.norm_weight, model.norm_bias)
            start = np.concatenate([normed(*three) for three in zip(rows, field_weight, field_bias, strict=True)])
            below, results = start, []
            for block in model.blocks:
                guide = loop_mlp(block.guide.layers, np.concatenate([rows.ravel(), inputs]))
                weight, bias, layer, gain, shift = arrays(
                    block.mask.weight, block.mask.bias, block.layer.weight, block.norm.weight, block.norm.bias
                )
                result = np.maximum(normed(layer @ ((weight @ guide + bias) * below), gain, shift), 0.0)
                results.append(result)
                below = start if parallel else result
            joint = results[-1]
            if parallel:
                joint = loop_mlp(model.mlp.layers, np.concatenate([*results, inputs]))
            want = float(model.output.weight[0].detach().numpy() @ joint) + model.output.bias.item()
            want += float(model.extra.weight[0].detach().numpy() @ inputs)
            assert abs(got[b, n].item() - want) < 1e-10


@pytest.mark.parametrize("parallel", [True, False])
def test_learns_exclusive_or(exclusive_or, parallel: bool) -> None:
    def build(fields):
        sizes = fields.num_context_fields, fields.num_item_fields
        return MaskNet(6, *sizes, parallel=parallel, block_size=16, hidden=(16,))

    assert exclusive_or(build, 6) > 0.95


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="blocks=0"):
        MaskNet(5, 2, 3, blocks=0)
