from __future__ import annotations

import numpy as np
import pytest
import torch

from corral.ranking.ctr.ctr_model import FieldVectors
from corral.ranking.ctr.fibinet import BilinearPairs, FiBiNET


@pytest.mark.parametrize("kind", ["all", "each", "interaction"])
@pytest.mark.parametrize(("num_context", "num_items"), [(3, 2), (2, 3), (0, 3), (2, 1), (1, 1)])
def test_equals_pair_by_pair(vectors, loop_mlp, kind: str, num_context: int, num_items: int) -> None:
    fields, history, mask = vectors(num_context=num_context, num_items=num_items)
    extra = torch.randn(4, 6, 2, dtype=torch.float64)
    model = FiBiNET(5, num_context, num_items, bilinear=kind, reduction=2, hidden=(8, 4), num_extra=2).double()
    got = model(fields, history, mask, extra)
    matrices = model.pairs.weight.detach().numpy()
    count = num_context + num_items
    # Pairs within the context, across the sides, within the item.
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    pairs.sort(key=lambda pair: (pair[0] >= num_context, pair[1] >= num_context))
    number = {"all": lambda pair: 0, "each": lambda pair: pair[0], "interaction": pairs.index}[kind]
    for b in range(4):
        for n in range(6):
            rows = np.concatenate([fields.context[b, 0].numpy(), fields.items[b, n].numpy()])
            weights, factors = rows[:, 0], rows[:, 1:]
            importance = loop_mlp(model.senet.layers, factors.mean(1))
            weighed = importance[:, None] * factors
            plain = [(matrices[number(p)].T @ factors[p[0]]) * factors[p[1]] for p in pairs]
            scaled = [(matrices[number(p)].T @ weighed[p[0]]) * weighed[p[1]] for p in pairs]
            inputs = extra[b, n].numpy()
            deep = loop_mlp(model.mlp.layers, np.concatenate([*plain, *scaled, inputs]))
            want = weights.sum() + float(model.output.weight[0].detach().numpy() @ deep) + model.output.bias.item()
            want += float(model.extra.weight[0].detach().numpy() @ inputs)
            assert abs(got[b, n].item() - want) < 1e-10


def test_pairs_within_the_context_are_made_once(vectors) -> None:
    fields, _, _ = vectors(num_context=3)
    within, others = BilinearPairs(5, 3, 3, "interaction").double()(fields.context, fields.items)
    assert within.shape == (4, 1, 3, 5)
    assert others.shape == (4, 6, 9 + 3, 5)


def test_learns_exclusive_or(exclusive_or) -> None:
    def build(fields):
        return FiBiNET(6, fields.num_context_fields, fields.num_item_fields, hidden=(16,))

    assert exclusive_or(build, 6) > 0.95


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="bilinear='some'"):
        FiBiNET(5, 2, 3, bilinear="some")
    with pytest.raises(ValueError, match="field_size >= 2"):
        FiBiNET(1, 2, 3)
    with pytest.raises(ValueError, match="two fields"):
        FiBiNET(5, 0, 1)


def test_every_field_has_a_weight_that_learns() -> None:
    """At the usual small embeddings no field is shut off by the last ReLU of SENET, and all weights have gradients."""
    for seed in range(10):
        torch.manual_seed(seed)
        model = FiBiNET(8, 5, 4, hidden=(8,))
        fields = FieldVectors(torch.randn(64, 1, 5, 8) * 0.05, torch.randn(64, 3, 4, 8) * 0.05)
        importance = model.senet(fields.context[..., 1:].mean(-1), fields.items[..., 1:].mean(-1))
        assert (importance.amax((0, 1)) > 0).all()
        model(fields, torch.zeros(64, 0, 4, 8), torch.zeros(64, 0, dtype=torch.bool)).square().sum().backward()
        assert (model.senet.layers[1].weight.grad.abs().sum(1) > 0).all()
