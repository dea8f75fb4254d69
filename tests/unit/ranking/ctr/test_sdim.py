from __future__ import annotations

import numpy as np
import pytest
import torch

from corral.ranking.ctr.sdim import SDIM


def bucket_by_hand(model: SDIM, vector: np.ndarray, group: int) -> tuple[bool, ...]:
    projection = model.hash.projection.numpy()[:, group * model.width : (group + 1) * model.width]
    return tuple((vector @ projection >= 0).tolist())


def buckets_by_hand(model: SDIM, target: np.ndarray, slots: list[np.ndarray]) -> np.ndarray:
    groups = model.hash.projection.shape[1] // model.width
    total = np.zeros_like(target)
    for group in range(groups):
        inside = np.zeros_like(target)
        for slot in slots:
            if bucket_by_hand(model, slot, group) == bucket_by_hand(model, target, group):
                inside = inside + slot
        total = total + inside / np.sqrt(np.sum(inside**2) + 0.03**2)
    return total / groups


@pytest.mark.parametrize(("bits", "width"), [(12, 3), (4, 2), (5, 1), (4, 4)])  # six targets, 2 to 16 buckets
@pytest.mark.parametrize("history_fields", [2, 3])
def test_equals_buckets_and_attention_in_loops(vectors, loop_mlp, bits: int, width: int, history_fields: int) -> None:
    fields, history, mask = vectors(length=12)
    history, extra = history[:, :, :history_fields], torch.randn(4, 6, 2, dtype=torch.float64)
    model = SDIM(
        5,
        2,
        3,
        num_history_fields=history_fields,
        bits=bits,
        width=width,
        recent=4,
        attention_hidden=(6, 4),
        hidden=(8, 4),
        num_extra=2,
    ).double()
    got = model(fields, history, mask, extra)
    attention, read = [model.latest.first, *model.latest.deeper], model.latest.output
    for b in range(4):
        slots = {j: history[b, j].numpy().ravel() for j in range(12) if mask[b, j]}
        for n in range(6):
            target = fields.items[b, n, :history_fields].numpy().ravel()
            latest = np.zeros_like(target)
            for j in range(8, 12):
                if j in slots:
                    slot = slots[j]
                    unit = loop_mlp(attention, np.concatenate([target, slot, target - slot, target * slot]))
                    latest = latest + (float(read.weight[0].detach().numpy() @ unit) + read.bias.item()) * slot
            parts = [
                fields.context[b, 0].numpy().ravel(),
                fields.items[b, n].numpy().ravel(),
                latest,
                buckets_by_hand(model, target, list(slots.values())),
                extra[b, n].numpy(),
            ]
            unit = loop_mlp(model.mlp.layers, np.concatenate(parts))
            want = float(model.output.weight[0].detach().numpy() @ unit) + model.output.bias.item()
            want += float(model.extra.weight[0].detach().numpy() @ parts[-1])
            assert abs(got[b, n].item() - want) < 1e-10


def test_many_targets_are_read_off_the_same_buckets_as_few(vectors) -> None:
    fields, history, mask = vectors(items=9, length=12)
    model = SDIM(5, 2, 3, bits=12, width=3).double()
    target, slots = fields.items.flatten(2), history.flatten(2)
    one_by_one = torch.cat([model.buckets(target[:, n : n + 1], slots, mask) for n in range(9)], 1)
    torch.testing.assert_close(model.buckets(target, slots, mask), one_by_one)
    assert one_by_one[:3].any()
    assert not one_by_one[3].any()  # no history


def test_a_slot_counts_as_often_as_its_angle_says() -> None:
    """One slot at the angle a: its share of the groups is (1 - a / pi)^width."""
    model = SDIM(2, 0, 1, bits=30_000, width=3).double()
    for degrees in (0.0, 40.0, 90.0):
        angle = np.radians(degrees)
        slot = torch.tensor([[[np.cos(angle), np.sin(angle)]]], dtype=torch.float64)
        target = torch.tensor([[[2.0, 0.0]]], dtype=torch.float64)
        found = model.buckets(target, slot, torch.ones(1, 1, dtype=torch.bool))
        assert abs(found.norm().item() - (1 - angle / np.pi) ** 3) < 0.02


def test_learns_whether_the_item_is_in_the_history(match_in_history) -> None:
    def build(fields):
        return SDIM(8, fields.num_context_fields, fields.num_item_fields, recent=1, hidden=(32, 16))

    assert match_in_history(build, 8) > 0.9


@pytest.mark.parametrize("wrong", [{"bits": 10, "width": 3}, {"width": 0}, {"bits": 22, "width": 11}, {"bits": 0}])
def test_groups_that_do_not_fit_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="width="):
        SDIM(4, 1, 1, **wrong)


def test_no_latest_slots_are_refused() -> None:
    with pytest.raises(ValueError, match="recent=0"):
        SDIM(4, 1, 1, recent=0)


def test_items_that_are_zero_still_have_gradients_like_others(vectors) -> None:
    """ "Unknown" starts at zero; divided by its length its gradient was some 1e8 times the others'."""
    fields, history, mask = vectors(length=12)
    history[:, :6] = 0.0
    norms = []
    for zero in (True, False):
        torch.manual_seed(0)
        model = SDIM(5, 2, 3, bits=12, width=3, recent=2, hidden=(8,)).double()
        slots = (history if zero else torch.randn_like(history)).requires_grad_()
        model(fields, slots, mask).sum().backward()
        norms.append(float(slots.grad.norm()))
    assert norms[0] < 100 * norms[1]
