from __future__ import annotations

import numpy as np
import pytest
import torch

from corral.ranking.ctr.eta import ETA
from corral.ranking.history_pooling import TargetAttention


def nearest_by_hand(model: ETA, target: np.ndarray, slots: np.ndarray, there: np.ndarray) -> list[int]:
    """Slots by how many bits agree, of equal ones the latest first."""
    projection = model.hash.projection.numpy()
    code = target @ projection >= 0
    agreement = {j: int(((slots[j] @ projection >= 0) == code).sum()) for j in range(len(slots)) if there[j]}
    return sorted(agreement, key=lambda j: (-agreement[j], -j))[: model.nearest]


def attended_by_hand(attention: TargetAttention, loop_mlp, target: np.ndarray, slots: list[np.ndarray]) -> np.ndarray:
    pooled = np.zeros_like(target)
    for slot in slots:
        unit = loop_mlp(
            [attention.first, *attention.deeper], np.concatenate([target, slot, target - slot, target * slot])
        )
        weight = float(attention.output.weight[0].detach().numpy() @ unit) + attention.output.bias.item()
        pooled = pooled + weight * slot
    return pooled


@pytest.mark.parametrize("bits", [3, 64])  # with 3 there are many ties
@pytest.mark.parametrize("nearest", [2, 40])  # 40 are more than there are
@pytest.mark.parametrize("history_fields", [2, 3])
def test_equals_a_search_and_two_attentions_in_loops(
    vectors, loop_mlp, bits: int, nearest: int, history_fields: int
) -> None:
    fields, history, mask = vectors(length=12)
    history, extra = history[:, :, :history_fields], torch.randn(4, 6, 2, dtype=torch.float64)
    model = ETA(
        5,
        2,
        3,
        num_history_fields=history_fields,
        nearest=nearest,
        recent=4,
        bits=bits,
        attention_hidden=(6, 4),
        hidden=(8, 4),
        num_extra=2,
    ).double()
    got = model(fields, history, mask, extra)
    for b in range(4):
        slots, there = history[b].flatten(1).numpy(), mask[b].numpy()
        for n in range(6):
            target = fields.items[b, n, :history_fields].numpy().ravel()
            chosen = nearest_by_hand(model, target, slots, there)
            recent = [j for j in range(8, 12) if there[j]]
            parts = [
                fields.context[b, 0].numpy().ravel(),
                fields.items[b, n].numpy().ravel(),
                attended_by_hand(model.latest, loop_mlp, target, [slots[j] for j in recent]),
                attended_by_hand(model.found, loop_mlp, target, [slots[j] for j in chosen]),
                extra[b, n].numpy(),
            ]
            unit = loop_mlp(model.mlp.layers, np.concatenate(parts))
            want = float(model.output.weight[0].detach().numpy() @ unit) + model.output.bias.item()
            want += float(model.extra.weight[0].detach().numpy() @ parts[-1])
            assert abs(got[b, n].item() - want) < 1e-10


def test_what_the_search_leaves_out_gets_no_gradient(vectors) -> None:
    fields, history, mask = vectors(length=12)
    history.requires_grad_()
    model = ETA(5, 2, 3, nearest=2, recent=1, hidden=(8,)).double()
    model(fields, history, mask)[:, :1].sum().backward()
    assert history.grad is not None
    for b in range(4):
        target = fields.items[b, 0].numpy().ravel()
        slots = history[b].detach().flatten(1).numpy()
        chosen = set(nearest_by_hand(model, target, slots, mask[b].numpy())) | ({11} if mask[b, 11] else set())
        touched = history.grad[b].ne(0).flatten(1).any(1).nonzero().flatten().tolist()
        assert set(touched) == chosen


def test_learns_whether_the_item_is_in_the_history(match_in_history) -> None:
    def build(fields):
        size = (8, fields.num_context_fields, fields.num_item_fields)
        return ETA(*size, nearest=2, recent=1, attention_hidden=(16, 8), hidden=(16,))

    assert match_in_history(build, 8) > 0.9


@pytest.mark.parametrize("wrong", [{"nearest": 0}, {"recent": 0}, {"bits": 0}])
def test_nothing_to_look_at_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}=0"):
        ETA(4, 1, 1, **wrong)
