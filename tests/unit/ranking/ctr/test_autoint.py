from __future__ import annotations

import numpy as np
import pytest
import torch

from corral.ranking.ctr.autoint import AutoInt


def attend(projection: np.ndarray, fields: np.ndarray, heads: int) -> np.ndarray:
    """One interacting layer of one row, field by field and head by head: [F, S] -> [F, heads * d]."""
    size = len(projection) // (4 * heads)
    query, key, value, residual = projection.reshape(4, heads, size, -1)
    rows = []
    for field in fields:
        parts = []
        for h in range(heads):
            logits = np.array([(query[h] @ field) @ (key[h] @ other) for other in fields])
            weights = np.exp(logits - logits.max())
            weights /= weights.sum()
            mixed = sum(weight * (value[h] @ other) for weight, other in zip(weights, fields, strict=True))
            parts.append(np.maximum(mixed + residual[h] @ field, 0.0))
        rows.append(np.concatenate(parts))
    return np.array(rows)


@pytest.mark.parametrize("num_context", [0, 2])
@pytest.mark.parametrize(("layers", "heads", "hidden"), [(1, 1, ()), (3, 2, (8, 4))])
def test_equals_attention_field_by_field(
    vectors, loop_mlp, num_context: int, layers: int, heads: int, hidden: tuple[int, ...]
) -> None:
    fields, history, mask = vectors(num_context=num_context)
    extra = torch.randn(4, 6, 2, dtype=torch.float64)
    model = AutoInt(5, num_context, 3, layers=layers, heads=heads, attention_size=4, hidden=hidden, num_extra=2)
    model = model.double()
    got = model(fields, history, mask, extra)
    assert got.shape == (4, 6)
    for b in range(4):
        for n in range(6):
            inputs = extra[b, n].numpy()
            start = np.concatenate([fields.context[b, 0].numpy(), fields.items[b, n].numpy()])
            attended = start
            for layer in model.layers:
                attended = attend(layer.projection.weight.detach().numpy(), attended, heads)
            joint = attended.ravel()
            if hidden:
                joint = np.concatenate([joint, loop_mlp(model.mlp.layers, np.concatenate([start.ravel(), inputs]))])
            want = float(model.output.weight[0].detach().numpy() @ joint) + model.output.bias.item()
            want += float(model.extra.weight[0].detach().numpy() @ inputs)
            assert abs(got[b, n].item() - want) < 1e-10


def test_heads_are_as_wide_as_a_field_unless_said() -> None:
    assert AutoInt(5, 2, 3, heads=3, attention_size=None).layers[0].output_size == 15


def test_refuses_no_layer() -> None:
    with pytest.raises(ValueError, match="layers=0"):
        AutoInt(5, 2, 3, layers=0)
