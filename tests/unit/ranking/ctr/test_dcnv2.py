from __future__ import annotations

import numpy as np
import pytest
import torch

from corral.ranking.ctr.dcnv2 import DCNV2, CrossNetwork


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("hidden", [(), (8, 4)])
def test_equals_the_cross_recursion(vectors, loop_mlp, rank: int | None, hidden: tuple[int, ...]) -> None:
    fields, history, mask = vectors()
    extra = torch.randn(4, 6, 2, dtype=torch.float64)
    model = DCNV2(5, 2, 3, num_cross_layers=3, rank=rank, hidden=hidden, num_extra=2).double()
    got = model(fields, history, mask, extra)
    for b in range(4):
        for n in range(6):
            start = np.concatenate(
                [
                    fields.context[b, 0].numpy().ravel(),
                    fields.items[b, n].numpy().ravel(),
                    extra[b, n].numpy(),
                ]
            )
            crossed = start
            for inner, outer in zip(model.cross.inner, model.cross.outer, strict=True):
                if rank is None:
                    product = inner.weight.detach().numpy() @ crossed + inner.bias.detach().numpy()
                else:
                    product = outer.weight.detach().numpy() @ (inner.weight.detach().numpy() @ crossed)
                    product = product + outer.bias.detach().numpy()
                crossed = start * product + crossed
            if hidden:
                crossed = np.concatenate([crossed, loop_mlp(model.mlp.layers, start)])
            want = float(model.output.weight[0].detach().numpy() @ crossed) + model.output.bias.item()
            assert abs(got[b, n].item() - want) < 1e-10


def test_the_cross_network_alone_learns_exclusive_or(exclusive_or) -> None:
    def build(fields):
        return DCNV2(6, fields.num_context_fields, fields.num_item_fields, num_cross_layers=1, hidden=())

    assert exclusive_or(build, 6) > 0.95


def test_learns_exclusive_or_with_low_rank_and_mlp(exclusive_or) -> None:
    def build(fields):
        return DCNV2(6, fields.num_context_fields, fields.num_item_fields, rank=4, hidden=(16,))

    assert exclusive_or(build, 6) > 0.95


def test_refuses_no_layer() -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        CrossNetwork(3, 3, 0, None)
