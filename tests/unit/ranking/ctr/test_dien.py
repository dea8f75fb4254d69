from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from corral.ranking.ctr.ctr_model import FieldVectors
from corral.ranking.ctr.dien import DIEN


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def gru(layer: nn.GRU, slots: list[np.ndarray]) -> list[np.ndarray]:
    """The states after each slot, by the equations of ``nn.GRU``."""
    of_input, of_state = layer.weight_ih_l0.detach().numpy(), layer.weight_hh_l0.detach().numpy()
    on_input, on_state = layer.bias_ih_l0.detach().numpy(), layer.bias_hh_l0.detach().numpy()
    state, states = np.zeros(of_state.shape[1]), []
    for slot in slots:
        reset, keep, new = np.split(of_input @ slot + on_input, 3)
        old_reset, old_keep, old_new = np.split(of_state @ state + on_state, 3)
        candidate = np.tanh(new + sigmoid(reset + old_reset) * old_new)
        keep = sigmoid(keep + old_keep)
        state = (1.0 - keep) * candidate + keep * state
        states.append(state)
    return states


def evolved(model: DIEN, states: list[np.ndarray], target: np.ndarray) -> np.ndarray:
    """Attention and AUGRU of one item, step by step."""
    state = np.zeros(model.state_size)
    if not states:
        return state
    asked = model.attention.weight.detach().numpy() @ target
    weights = np.exp(np.array([interest @ asked for interest in states]))
    weights /= weights.sum()
    of_input, bias = model.evolution.inputs.weight.detach().numpy(), model.evolution.inputs.bias.detach().numpy()
    of_state = model.evolution.states.weight.detach().numpy()
    for weight, interest in zip(weights, states, strict=True):
        update, reset, new = np.split(of_input @ interest + bias, 3)
        old_update, old_reset, old_new = np.split(of_state @ state, 3)
        candidate = np.tanh(new + sigmoid(reset + old_reset) * old_new)
        step = weight * sigmoid(update + old_update)
        state = (1.0 - step) * state + step * candidate
    return state


@pytest.mark.parametrize("history_fields", [2, 3])
@pytest.mark.parametrize("state_size", [None, 4])
def test_equals_the_recurrences_step_by_step(vectors, loop_mlp, history_fields: int, state_size: int | None) -> None:
    fields, history, mask = vectors()
    history = history[:, :, :history_fields]
    extra = torch.randn(4, 6, 2, dtype=torch.float64)
    model = DIEN(5, 2, 3, num_history_fields=history_fields, state_size=state_size, hidden=(8, 4), num_extra=2).double()
    got = model(fields, history, mask, extra)
    assert model.state_size == (state_size or 5 * history_fields)
    for b in range(4):
        states = gru(model.extractor, [history[b, j].numpy().ravel() for j in range(7) if mask[b, j]])
        for n in range(6):
            target = fields.items[b, n, :history_fields].numpy().ravel()
            inputs = extra[b, n].numpy()
            row = np.concatenate(
                [
                    fields.context[b, 0].numpy().ravel(),
                    fields.items[b, n].numpy().ravel(),
                    evolved(model, states, target),
                    inputs,
                ]
            )
            want = float(model.output.weight[0].detach().numpy() @ loop_mlp(model.mlp.layers, row))
            want += model.output.bias.item() + float(model.extra.weight[0].detach().numpy() @ inputs)
            assert abs(got[b, n].item() - want) < 1e-10


def test_masked_slots_count_for_nothing_and_get_no_gradient(vectors) -> None:
    fields, history, mask = vectors()
    model = DIEN(5, 2, 3, hidden=(8,)).double()
    other = torch.where(mask[:, :, None, None], history, torch.full_like(history, 1e3)).requires_grad_()
    logits = model(fields, other, mask)
    torch.testing.assert_close(logits, model(fields, history, mask), rtol=0, atol=1e-12)
    logits.sum().backward()
    assert other.grad.isfinite().all()
    assert other.grad[~mask].eq(0).all()
    assert other.grad[mask].abs().sum() > 0


def test_the_order_of_the_history_matters(vectors) -> None:
    fields, history, _ = vectors()
    mask = torch.ones(4, 7, dtype=torch.bool)
    model = DIEN(5, 2, 3, hidden=(8,)).double()
    gap = (model(fields, history, mask) - model(fields, history.flip(1), mask)).abs()
    assert (gap > 1e-9).all()


def test_gradients_are_right(vectors) -> None:
    fields, history, mask = vectors(field_size=2, num_items=1, items=2, length=4)
    model = DIEN(2, 2, 1, hidden=(3,)).double()

    def run(items: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        return model(FieldVectors(fields.context, items), slots, mask)

    assert torch.autograd.gradcheck(run, (fields.items.requires_grad_(), history.requires_grad_()))


def test_no_item_at_all(vectors) -> None:
    fields, history, mask = vectors(items=0)
    assert DIEN(5, 2, 3, hidden=(8,)).double()(fields, history, mask).shape == (4, 0)
