from __future__ import annotations

import numpy as np
import torch

from corral.ranking.ctr.deepfm import DeepFM


def test_equals_fm_plus_mlp(vectors, loop_mlp) -> None:
    fields, history, mask = vectors()
    extra = torch.randn(4, 6, 2, dtype=torch.float64)
    model = DeepFM(5, 2, 3, hidden=(8, 4), num_extra=2).double()
    torch.nn.init.normal_(model.fm.bias)
    got = model(fields, history, mask, extra)
    for b in range(4):
        for n in range(6):
            rows = np.concatenate([fields.context[b, 0].numpy(), fields.items[b, n].numpy()])
            inputs = extra[b, n].numpy()
            want = model.fm.bias.item() + rows[:, 0].sum() + float(model.fm.extra.weight[0].detach().numpy() @ inputs)
            for i in range(5):
                want += sum(float(rows[i, 1:] @ rows[j, 1:]) for j in range(i + 1, 5))
            deep = loop_mlp(model.mlp.layers, np.concatenate([rows[:, 1:].ravel(), inputs]))
            want += float(model.output.weight[0].detach().numpy() @ deep)
            assert abs(got[b, n].item() - want) < 1e-10


def test_learns_exclusive_or(exclusive_or) -> None:
    def build(fields):
        return DeepFM(6, fields.num_context_fields, fields.num_item_fields, hidden=(16, 8))

    assert exclusive_or(build, 6) > 0.95
