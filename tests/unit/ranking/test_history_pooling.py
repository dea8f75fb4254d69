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


@pytest.mark.parametrize("piece", [1, 2000, 1 << 21])
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


@pytest.mark.parametrize("items", [1, 5])
@pytest.mark.parametrize("hidden", [(3,), (5, 4, 3)])
def test_the_gradient_by_hand_is_autograds_of_the_plain_form(
    monkeypatch: pytest.MonkeyPatch, items: int, hidden: tuple[int, ...]
) -> None:
    monkeypatch.setattr(history_pooling, "CPU_PIECE", 1500)  # several pieces of several queries
    torch.manual_seed(0)
    attention = TargetAttention(4, hidden=hidden).double()
    target = torch.randn(9, items, 4, dtype=torch.float64, requires_grad=True)
    history = torch.randn(9, 6, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(6) >= torch.tensor([6, 0, 3, 6, 5, 1, 0, 2, 4])[:, None]  # two have no history
    mask[1, 3] = False  # a hole
    inputs = [target, history, *attention.parameters()]
    got, want = attention(target, history, mask), tiled(attention, target, history, mask)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    direction = torch.randn_like(got)
    gradients = torch.autograd.grad(got, inputs, direction)
    for a, b in zip(gradients, torch.autograd.grad(want, inputs, direction), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    assert torch.equal(gradients[1][~mask], torch.zeros_like(gradients[1][~mask]))

    def of_parameters(target: torch.Tensor, history: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        named = dict(zip(dict(attention.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(attention, named, (target, history, mask))

    assert torch.autograd.gradcheck(of_parameters, inputs, fast_mode=True)


def test_evaluation_and_repetition_give_the_same_bits() -> None:
    attention = TargetAttention(6, attention_size=3)
    target, history, mask = torch.randn(5, 4, 6), torch.randn(5, 7, 6), torch.rand(5, 7) < 0.5
    trained = attention(target, history, mask)
    with torch.no_grad():
        assert torch.equal(attention(target, history, mask), trained)
    with torch.inference_mode():
        assert torch.equal(attention(target, history, mask), trained)
    one, two = (torch.autograd.grad(attention(target, history, mask).sum(), attention.parameters()) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_unsorted_as_on_other_devices() -> None:
    attention = TargetAttention(6)
    target, history, mask = torch.randn(5, 4, 6), torch.randn(5, 7, 6), torch.rand(5, 7) < 0.5
    torch.testing.assert_close(attention._pooled(target, history, mask, [0] * 5), attention(target, history, mask))


@pytest.mark.parametrize("softmax", [False, True])
def test_nobody_has_a_history(softmax: bool) -> None:
    attention = TargetAttention(6, softmax=softmax)
    target, history = torch.randn(5, 4, 6, requires_grad=True), torch.randn(5, 7, 6, requires_grad=True)
    pooled = attention(target, history, torch.zeros(5, 7, dtype=torch.bool))
    assert torch.equal(pooled, torch.zeros(5, 4, 6))
    for gradient in torch.autograd.grad(pooled.sum(), [target, history, *attention.parameters()]):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_frozen_parts_and_retained_graphs() -> None:
    attention = TargetAttention(6)
    attention.first.requires_grad_(False)
    target, history, mask = torch.randn(2, 3, 6), torch.randn(2, 4, 6), torch.ones(2, 4).bool()
    loss = attention(target, history, mask).square().sum()
    loss.backward(retain_graph=True)
    once = attention.output.weight.grad.clone()
    loss.backward()
    torch.testing.assert_close(attention.output.weight.grad, 2 * once)
    assert attention.first.weight.grad is None


@pytest.mark.parametrize(("softmax", "bias", "tolerance"), [(False, 6.0, 0.03), (False, 0.0, 0.2), (True, 0.0, 0.2)])
def test_autocast_is_close_to_float32(softmax: bool, bias: float, tolerance: float) -> None:
    """With every ReLU open up to rounding; else rounding switches a few, with or without a gradient by hand."""
    torch.manual_seed(0)
    attention = TargetAttention(16, softmax=softmax)
    with torch.no_grad():
        attention.first.bias += bias
        attention.deeper[0].weight.abs_()
    target, history = torch.randn(20, 5, 16, requires_grad=True), torch.randn(20, 9, 16, requires_grad=True)
    mask = torch.rand(20, 9) < 0.7
    # The last bias has no gradient under a softmax.
    inputs = [target, history, *list(attention.parameters())[:-1]]
    want = attention(target, history, mask)
    with torch.autocast("cpu", torch.bfloat16):
        got = attention(target, history, mask)
    assert got.dtype == torch.bfloat16
    assert (got - want).norm() <= 0.03 * want.norm()
    direction = torch.randn_like(want)
    gradients = torch.autograd.grad(got, inputs, direction.bfloat16())
    for a, b in zip(gradients, torch.autograd.grad(want, inputs, direction), strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() <= tolerance * b.norm()


def test_empty_shapes() -> None:
    attention = TargetAttention(6)
    none = torch.zeros(4, 0, dtype=torch.bool)
    assert torch.equal(attention(torch.randn(4, 5, 6), torch.randn(4, 0, 6), none), torch.zeros(4, 5, 6))
    assert attention(torch.randn(4, 0, 6), torch.randn(4, 3, 6), torch.ones(4, 3).bool()).shape == (4, 0, 6)
    with pytest.raises(ValueError, match="at least one hidden"):
        TargetAttention(6, hidden=())


def test_a_request_alone_is_pooled_as_in_a_batch() -> None:
    attention = TargetAttention(6).double()
    target, history = torch.randn(4, 5, 6, dtype=torch.float64), torch.randn(4, 7, 6, dtype=torch.float64)
    mask = torch.arange(7) >= torch.tensor([[0], [3], [6], [7]])
    together = attention(target, history, mask)
    for row in range(4):
        one = slice(row, row + 1)
        torch.testing.assert_close(attention(target[one], history[one], mask[one]), together[one], rtol=0, atol=1e-12)
