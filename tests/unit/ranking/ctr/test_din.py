from __future__ import annotations

import numpy as np
import pytest
import torch

from corral.ranking.ctr.din import DIN


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("history_fields", [2, 3])
def test_equals_plain_attention_and_mlp(vectors, loop_mlp, softmax: bool, history_fields: int) -> None:
    fields, history, mask = vectors()
    history = history[:, :, :history_fields]
    extra = torch.randn(4, 6, 2, dtype=torch.float64)
    model = DIN(
        5,
        2,
        3,
        num_history_fields=history_fields,
        attention_hidden=(6, 4),
        softmax=softmax,
        hidden=(8, 4),
        num_extra=2,
    ).double()
    got = model(fields, history, mask, extra)
    attention = [model.attention.first, *model.attention.deeper]
    read = model.attention.output
    for b in range(4):
        for n in range(6):
            target = fields.items[b, n, :history_fields].numpy().ravel()
            slots = [history[b, j].numpy().ravel() for j in range(7) if mask[b, j]]
            weights = []
            for slot in slots:
                unit = loop_mlp(attention, np.concatenate([target, slot, target - slot, target * slot]))
                weights.append(float(read.weight[0].detach().numpy() @ unit) + read.bias.item())
            if softmax and weights:
                shifted = np.exp(np.array(weights) - max(weights))
                weights = list(shifted / shifted.sum())
            pooled = np.zeros_like(target)
            for weight, slot in zip(weights, slots, strict=True):
                pooled = pooled + weight * slot
            inputs = extra[b, n].numpy()
            row = np.concatenate(
                [fields.context[b, 0].numpy().ravel(), fields.items[b, n].numpy().ravel(), pooled, inputs]
            )
            want = float(model.output.weight[0].detach().numpy() @ loop_mlp(model.mlp.layers, row))
            want += model.output.bias.item() + float(model.extra.weight[0].detach().numpy() @ inputs)
            assert abs(got[b, n].item() - want) < 1e-10


def test_learns_whether_the_item_is_in_the_history(match_in_history) -> None:
    def build(fields):
        return DIN(8, fields.num_context_fields, fields.num_item_fields, attention_hidden=(16, 8), hidden=(16,))

    assert match_in_history(build, 8) > 0.9
