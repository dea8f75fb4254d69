from __future__ import annotations

import pytest
import torch

from corral.ranking import history_pooling
from corral.ranking.history_pooling import TargetAttention, mean_pooling


def test_mean_of_what_is_there() -> None:
    history = torch.randn(3, 4, 2, 5)
    mask = torch.tensor([[True] * 4, [False, False, True, True], [False] * 4])
    pooled = mean_pooling(history, mask)
    torch.testing.assert_close(pooled[0], history[0].mean(0))
    torch.testing.assert_close(pooled[1], history[1, 2:].mean(0))
    assert torch.equal(pooled[2], torch.zeros(2, 5))
    assert torch.equal(mean_pooling(history[:, :0], mask[:, :0]), torch.zeros(3, 2, 5))


def tiled(attention: TargetAttention, target: torch.Tensor, history: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The same with the input [t; h; t - h; t * h] written out."""
    asked, seen = target, history
    if attention.projection is not None:
        asked, seen = attention.projection(target), attention.projection(history)
    t = asked.unsqueeze(2).expand(-1, -1, seen.shape[1], -1)
    h = seen.unsqueeze(1).expand(-1, asked.shape[1], -1, -1)
    unit = torch.relu(attention.first(torch.cat([t, h, t - h, t * h], dim=-1)))
    for layer in attention.deeper:
        unit = torch.relu(layer(unit))
    logits = attention.output(unit).squeeze(-1)
    present = mask.unsqueeze(1)
    weights = logits.masked_fill(~present, -1e300).softmax(-1) if attention.softmax else logits
    return (weights * present) @ history


@pytest.mark.parametrize("piece", [1, 200, 1 << 18])
@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("attention_size", [None, 3])
@pytest.mark.parametrize("hidden", [(8,), (8, 4)])
def test_equals_the_tiled_form(
    monkeypatch: pytest.MonkeyPatch,
    piece: int,
    softmax: bool,
    attention_size: int | None,
    hidden: tuple[int, ...],
) -> None:
    monkeypatch.setattr(history_pooling, "CPU_PIECE", piece)
    attention = TargetAttention(6, hidden=hidden, attention_size=attention_size, softmax=softmax).double()
    target = torch.randn(4, 5, 6, dtype=torch.float64, requires_grad=True)
    history = torch.randn(4, 7, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(4, 7) < 0.5
    mask[0] = False
    inputs = [target, history, *attention.parameters()]
    got, want = attention(target, history, mask), tiled(attention, target, history, mask)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    assert torch.equal(got[0], torch.zeros(5, 6, dtype=torch.float64))
    direction = torch.randn_like(got)
    for a, b in zip(
        torch.autograd.grad(got, inputs, direction), torch.autograd.grad(want, inputs, direction), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_empty_shapes() -> None:
    attention = TargetAttention(6)
    none = torch.zeros(4, 0, dtype=torch.bool)
    assert torch.equal(attention(torch.randn(4, 5, 6), torch.randn(4, 0, 6), none), torch.zeros(4, 5, 6))
    assert attention(torch.randn(4, 0, 6), torch.randn(4, 3, 6), torch.ones(4, 3).bool()).shape == (4, 0, 6)
    with pytest.raises(ValueError, match="at least one hidden"):
        TargetAttention(6, hidden=())
