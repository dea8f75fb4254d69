from __future__ import annotations

import numpy as np
import pytest
import torch

from corral.ranking.ctr.xdeepfm import CompressedInteraction, XDeepFM


@pytest.mark.parametrize("cin", [(4,), (4, 3), (3, 7, 5)])
@pytest.mark.parametrize("items", [1, 6])
@pytest.mark.parametrize(("num_context", "hidden"), [(2, (8, 4)), (0, ())])
def test_equals_the_crosses_coordinate_by_coordinate(
    vectors, loop_mlp, cin: tuple[int, ...], items: int, num_context: int, hidden: tuple[int, ...]
) -> None:
    fields, history, mask = vectors(num_context=num_context, items=items)
    extra = torch.randn(4, items, 2, dtype=torch.float64)
    model = XDeepFM(5, num_context, 3, cin=cin, hidden=hidden, num_extra=2).double()
    got = model(fields, history, mask, extra)
    for b in range(4):
        for n in range(items):
            rows = np.concatenate([fields.context[b, 0].numpy(), fields.items[b, n].numpy()])
            start = maps = rows[:, 1:]
            pooled = []
            for weights in model.cin.weights:
                weight, after = weights.detach().numpy(), np.zeros((len(weights), 4))
                for h in range(len(weight)):
                    for i in range(len(maps)):
                        for j in range(len(start)):
                            after[h] += weight[h, i, j] * maps[i] * start[j]
                maps = after
                pooled.append(maps.sum(1))
            inputs, joint = extra[b, n].numpy(), np.concatenate(pooled)
            if hidden:
                joint = np.concatenate([joint, loop_mlp(model.mlp.layers, np.concatenate([start.ravel(), inputs]))])
            want = rows[:, 0].sum() + float(model.output.weight[0].detach().numpy() @ joint) + model.output.bias.item()
            want += float(model.extra.weight[0].detach().numpy() @ inputs)
            assert abs(got[b, n].item() - want) < 1e-9 * max(1.0, abs(want))


def test_one_item_at_a_time_equals_all_at_once(vectors) -> None:
    """Shared fields are mixed first for many items, multiplied out for one: the same numbers."""
    fields, _, _ = vectors(items=20)
    cin = CompressedInteraction(2, 3, (9, 6, 4)).double()
    whole = cin(fields.context, fields.items)
    alone = torch.cat([cin(fields.context, fields.items[:, n : n + 1]) for n in range(20)], dim=1)
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-10)


def test_cin_alone_learns_exclusive_or(exclusive_or) -> None:
    def build(fields):
        return XDeepFM(6, fields.num_context_fields, fields.num_item_fields, cin=(4,), hidden=())

    assert exclusive_or(build, 6) > 0.95


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="cin must name"):
        XDeepFM(5, 2, 3, cin=())
    with pytest.raises(ValueError, match="field_size >= 2"):
        XDeepFM(1, 2, 3)
