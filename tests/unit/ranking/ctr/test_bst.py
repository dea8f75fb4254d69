from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from corral.ranking.ctr.bst import BST


def linear(layer: nn.Linear, row: np.ndarray) -> np.ndarray:
    return layer.weight.detach().numpy() @ row + layer.bias.detach().numpy()


def normed(layer: nn.LayerNorm, row: np.ndarray) -> np.ndarray:
    row = (row - row.mean()) / np.sqrt(row.var() + 1e-5)
    return row * layer.weight.detach().numpy() + layer.bias.detach().numpy()


def block(model: BST, row: np.ndarray, seen: list[np.ndarray]) -> np.ndarray:
    """The transformer block's result at ``row``, which attends to the rows ``seen``, head by head."""
    size = len(model.projection.weight) // (3 * model.heads)
    query, key, value = model.projection.weight.detach().numpy().reshape(3, model.heads, size, -1)
    parts = []
    for h in range(model.heads):
        logits = np.array([(query[h] @ row) @ (key[h] @ other) / np.sqrt(size) for other in seen])
        weights = np.exp(logits - logits.max())
        weights /= weights.sum()
        parts.append(sum(weight * (value[h] @ other) for weight, other in zip(weights, seen, strict=True)))
    row = normed(model.attention_norm, row + linear(model.attended, np.concatenate(parts)))
    hidden = linear(model.feed_in, row)
    return normed(model.feed_norm, row + linear(model.feed_out, np.where(hidden > 0, hidden, 0.01 * hidden)))


@pytest.mark.parametrize("history_fields", [2, 3])
@pytest.mark.parametrize(("heads", "attention_size", "history_length"), [(1, None, 20), (3, None, 3), (2, 4, 7)])
def test_equals_the_block_row_by_row(
    vectors, loop_mlp, history_fields: int, heads: int, attention_size: int | None, history_length: int
) -> None:
    fields, history, mask = vectors()
    history = history[:, :, :history_fields]
    extra = torch.randn(4, 6, 2, dtype=torch.float64)
    model = BST(
        5,
        2,
        3,
        num_history_fields=history_fields,
        heads=heads,
        attention_size=attention_size,
        feed_size=6,
        history_length=history_length,
        hidden=(8, 4),
        num_extra=2,
    ).double()
    for layer in (model.attention_norm, model.feed_norm):
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    nn.init.normal_(model.positions)
    got = model(fields, history, mask, extra)
    positions = model.positions.detach().numpy()
    for b in range(4):
        slots = [history[b, j].numpy().ravel() for j in range(7) if mask[b, j]]
        slots = [slot + positions[min(len(slots) - j, history_length)] for j, slot in enumerate(slots)]
        rows = [block(model, slot, slots) for slot in slots]
        pooled = np.mean(rows, axis=0) if rows else np.zeros(5 * history_fields)
        for n in range(6):
            target = fields.items[b, n, :history_fields].numpy().ravel() + positions[0]
            inputs = extra[b, n].numpy()
            row = np.concatenate(
                [
                    fields.context[b, 0].numpy().ravel(),
                    pooled,
                    fields.items[b, n].numpy().ravel(),
                    block(model, target, [*slots, target]),
                    inputs,
                ]
            )
            want = float(model.output.weight[0].detach().numpy() @ loop_mlp(model.mlp.layers, row))
            want += model.output.bias.item() + float(model.extra.weight[0].detach().numpy() @ inputs)
            assert abs(got[b, n].item() - want) < 1e-10


def test_masked_slots_count_for_nothing_and_get_no_gradient(vectors) -> None:
    fields, history, mask = vectors()
    model = BST(5, 2, 3, heads=2, hidden=(8,)).double()
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
    model = BST(5, 2, 3, heads=2, hidden=(8,)).double()
    gap = (model(fields, history, mask) - model(fields, history.flip(1), mask)).abs()
    assert (gap > 1e-9).all()


def test_no_history_and_no_item(vectors) -> None:
    fields, history, mask = vectors()
    model = BST(5, 2, 3, heads=2, hidden=(8,)).double()
    none = model(fields, history[:, :0], mask[:, :0])
    torch.testing.assert_close(none, model(fields, history, torch.zeros_like(mask)), rtol=0, atol=1e-12)
    fields, history, mask = vectors(items=0)
    assert model(fields, history, mask).shape == (4, 0)
