"""The retrieval losses against torch's own cross entropy, by hand, and in expectation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from corral.retrieval.matrix_factorization import MatrixFactorization
from corral.sampling.popularity import PopularitySampler
from corral.sampling.sampler import Sampler
from corral.sampling.top_k import TopKSampler
from corral.sampling.uniform import UniformSampler
from corral.training.losses import full_softmax, in_batch_softmax, sampled_softmax, weighted_mean
from corral.training.retrieval_objectives import SampledSoftmaxObjective


def some(queries: int, items: int, size: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Query vectors, item vectors (both with gradients) and targets."""
    random = torch.Generator().manual_seed(queries * 100 + items)
    q, v = (
        torch.randn(n, size, generator=random, dtype=torch.float64).to(dtype).requires_grad_() for n in (queries, items)
    )
    return q, v, torch.randint(items, (queries,), generator=random)


def gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, inputs))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize(
    ("queries", "items", "chunk"), [(1, 1, 256), (1, 7, 1), (13, 7, 5), (13, 40, 13), (13, 40, 256)]
)
def test_full_softmax_is_cross_entropy(queries: int, items: int, chunk: int, smoothing: float) -> None:
    q, v, target = some(queries, items)
    loss = full_softmax(q, v, target, chunk=chunk, label_smoothing=smoothing)
    exact = cross_entropy(q @ v.T, target, label_smoothing=smoothing)
    torch.testing.assert_close(loss, exact, rtol=1e-12, atol=1e-12)
    for found, wanted in zip(gradients(3 * loss, q, v), gradients(3 * exact, q, v), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-13)


def test_full_softmax_of_extreme_scores() -> None:
    q, v, target = some(6, 9, dtype=torch.float32)
    loss = full_softmax(q * 1e3, v * 1e2, target)
    torch.testing.assert_close(loss, cross_entropy((q * 1e3) @ (v * 1e2).T, target), rtol=1e-5, atol=0)
    assert all(gradient.isfinite().all() for gradient in gradients(loss, q, v))


def test_full_softmax_of_nothing() -> None:
    q, v, _ = some(1, 4)
    loss = full_softmax(q[:0], v, torch.zeros(0, dtype=torch.int64))
    assert float(loss.detach()) == 0.0
    assert all(float(gradient.abs().sum()) == 0.0 for gradient in gradients(loss, q, v))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_full_softmax_under_autocast(smoothing: float) -> None:
    q, v, target = some(50, 200, size=16, dtype=torch.float32)
    exact = cross_entropy(q @ v.T, target, label_smoothing=smoothing)
    with torch.autocast("cpu", torch.bfloat16):
        loss = full_softmax(q, v, target, chunk=16, label_smoothing=smoothing)
        half = full_softmax(q.bfloat16(), v, target, chunk=16, label_smoothing=smoothing)
    assert loss.dtype == half.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=5e-3, atol=0)
    torch.testing.assert_close(half, exact, rtol=5e-3, atol=0)
    for found, wanted in zip(gradients(loss, q, v), gradients(exact, q, v), strict=True):
        assert found.dtype == torch.float32
        assert float((found - wanted).norm() / wanted.norm()) < 0.01


def test_full_softmax_has_no_second_derivative() -> None:
    q, v, target = some(3, 4)
    (first,) = torch.autograd.grad(full_softmax(q * 1.0, v, target) ** 2, q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


# Sampled softmax


def by_hand(positive: float, negatives: list[float], own: float, log_q: list[float], hits: list[bool]) -> float:
    """The formula, one exponential at a time."""
    top = math.exp(positive - own)
    rest = sum(math.exp(s - q) for s, q, hit in zip(negatives, log_q, hits, strict=True) if not hit)
    return -math.log(top / (top + rest))


def test_sampled_softmax_by_hand() -> None:
    positive = torch.tensor([0.3, -1.2], dtype=torch.float64)
    negative = torch.tensor([[0.5, 0.3, -0.7], [2.0, 0.1, 0.4]], dtype=torch.float64)
    log_q = torch.tensor([[0.2, 0.1, 0.4], [0.3, 0.3, 0.25]], dtype=torch.float64).log()
    own = torch.tensor([0.1, 0.05], dtype=torch.float64).log()
    hit = torch.tensor([[False, True, False], [False, False, False]])
    expected = [
        by_hand(*row)
        for row in zip(positive.tolist(), negative.tolist(), own.tolist(), log_q.tolist(), hit.tolist(), strict=True)
    ]
    assert float(sampled_softmax(positive, negative, own, log_q, hit)) == pytest.approx(sum(expected) / 2, rel=1e-12)


def test_exact_positive_form_by_hand() -> None:
    """log Q(i+) = -log N: -log P̂, P̂ = e^s+ / (e^s+ + (1/N) sum of e^(s_j - log Q_j) over draws that are no hits)."""
    s, draws, q = 0.4, [0.9, 0.4, -0.3, 1.1], [0.1, 0.2, 0.3, 0.05]
    hit = [False, True, False, False]
    mean = sum(math.exp(x) / p for x, p, h in zip(draws, q, hit, strict=True) if not h) / 4
    expected = -math.log(math.exp(s) / (math.exp(s) + mean))
    loss = sampled_softmax(
        torch.tensor([s], dtype=torch.float64),
        torch.tensor([draws], dtype=torch.float64),
        -math.log(4),
        torch.tensor([q], dtype=torch.float64).log(),
        torch.tensor([hit]),
    )
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_exact_positive_form_needs_a_normalised_log_q() -> None:
    catalogue, model = torch.arange(2, 9), MatrixFactorization(9, 9, size=4)
    with pytest.raises(ValueError, match="certain: needs a normalised log Q, and TopKSampler has no"):
        SampledSoftmaxObjective(model, catalogue, TopKSampler(catalogue, size=4, k=3), certain=True)


@pytest.mark.parametrize("own", [-math.log(3), -0.5])
def test_all_draws_hit(own: float) -> None:
    """Nothing is left to tell the item from: no loss and no gradient."""
    positive = torch.tensor([0.7], requires_grad=True)
    negative = torch.tensor([[0.7, 0.7, 0.7]], requires_grad=True)
    loss = sampled_softmax(positive, negative, own, torch.full((1, 3), -2.0), torch.ones(1, 3, dtype=torch.bool))
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-7)
    for gradient in gradients(loss, positive, negative):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("own", [-math.log(3), "as precise"])
def test_sampled_softmax_of_half_precision(own: float | str) -> None:
    """Computed in float32, as of these very numbers."""
    scores, log_q = torch.randn(4, 4).bfloat16(), torch.rand(4, 4).log().bfloat16()
    hit = torch.zeros(4, 3, dtype=torch.bool)

    def loss(scores: Tensor, log_q: Tensor) -> Tensor:
        return sampled_softmax(
            scores[:, 0], scores[:, 1:], log_q[:, 0] if isinstance(own, str) else own, log_q[:, 1:], hit
        )

    found, wanted = loss(scores, log_q), loss(scores.float(), log_q.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted)


def test_hits_carry_no_gradient() -> None:
    positive, negative = torch.randn(2, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    hit = torch.tensor([[True, False, False], [False, False, True]])
    loss = sampled_softmax(positive, negative, torch.zeros(2), torch.zeros(2, 3), hit)
    (gradient,) = gradients(loss, negative)
    assert (gradient[hit] == 0).all()
    assert (gradient[~hit] > 0).all()


@pytest.mark.parametrize("loss", ["sampled", "in-batch"])
def test_no_examples_no_loss(loss: str) -> None:
    """A batch of windows may hold no target at all."""
    q = torch.randn(0, 3, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.int64)
    if loss == "sampled":
        value = sampled_softmax(
            q.sum(1), q @ torch.randn(3, 5), torch.zeros(0), torch.zeros(0, 5), torch.zeros(0, 5) > 0
        )
    else:
        value = in_batch_softmax(q, q, nothing, torch.zeros(0))
    assert float(value.detach()) == 0.0
    value.backward()


ITEMS = 30
COUNTS = torch.arange(ITEMS).flip(0) ** 2 + 1  # long-tailed


def samplers() -> dict[str, Sampler]:
    catalogue = torch.arange(2, ITEMS + 2)  # rows 0 and 1 are reserved
    return {"uniform": UniformSampler(catalogue), "popularity": PopularitySampler(catalogue, COUNTS)}


def gradient_error(sampler: Sampler, draws: int, sign: float, exact_positive: bool, repeats: int = 30) -> float:
    """Distance of the mean gradient by the scores from the full softmax's, one query with two kinds of target."""
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(ITEMS, generator=random, dtype=torch.float64)
    worst = 0.0
    for clicked in (1, ITEMS - 2):  # popular, rare
        target = torch.full((repeats,), clicked)
        s = scores.clone().requires_grad_()
        sample = sampler.sample(torch.zeros(repeats, 1), draws, random)
        own: Tensor | float = sampler.log_q(torch.zeros(repeats, 1), target[:, None] + 2)[:, 0].double() * sign
        if exact_positive:
            own = -math.log(draws) * sign
        drawn = sample.items - 2
        loss = sampled_softmax(s[target], s[drawn], own, sample.log_q.double() * sign, drawn == target[:, None])
        (found,) = gradients(loss, s)
        (wanted,) = gradients(cross_entropy(s[None], target[:1]), s)
        worst = max(worst, float((found - wanted).norm() / wanted.norm()))
    return worst


@pytest.mark.parametrize("name", ["uniform", "popularity"])
def test_exact_positive_form_converges_to_the_full_softmax(name: str) -> None:
    few, many = (gradient_error(samplers()[name], draws, 1.0, True) for draws in (30, 30_000))
    assert many < 0.02
    assert many < few / 3


def test_reference_form_with_every_other_item_drawn_once() -> None:
    """The paper's form weighs the clicked item by 1/Q once, and the draws by 1/Q each: it tends to no full softmax
    as N grows. It equals the full softmax where the draws are all other items, once each."""
    random = torch.Generator().manual_seed(1)
    scores = torch.randn(ITEMS, generator=random, dtype=torch.float64)
    items = torch.tensor([[i for i in range(ITEMS) if i != 4]])
    log_q = samplers()["uniform"].log_q(torch.zeros(1, 1), items + 2).double()
    loss = sampled_softmax(scores[4:5], scores[items], log_q[:, 0], log_q, items == 4)
    assert float(loss) == pytest.approx(float(cross_entropy(scores[None], torch.tensor([4]))), rel=1e-12)


def test_wrong_sign_of_log_q_is_detected() -> None:
    """The check above, given the loss with the wrong sign, must fail."""
    right = gradient_error(samplers()["popularity"], 30_000, 1.0, True)
    wrong = gradient_error(samplers()["popularity"], 30_000, -1.0, True)
    none = gradient_error(samplers()["popularity"], 30_000, 0.0, True)
    assert right < 0.02
    assert wrong > 0.2
    assert none > 0.2


# In-batch softmax


def drift(log_share: Callable[[Tensor], Tensor], size: int = 1500) -> float:
    """The in-batch gradient by item scores of a model that fits the data already: softmax(scores) = share.

    There the full softmax's gradient is 0 but for the noise of the batch.
    """
    random = torch.Generator().manual_seed(3)
    share = COUNTS.double() / COUNTS.sum()
    item = torch.multinomial(share, size, replacement=True, generator=random)
    scores = share.log().clone().requires_grad_()
    query = torch.ones(size, 1, dtype=torch.float64)
    loss = in_batch_softmax(query, scores[item][:, None], item, log_share(share[item].log()))
    (found,) = gradients(loss, scores)
    return float(found.norm())


def test_in_batch_by_hand() -> None:
    q, v, _ = some(4, 4)
    item, log_share = torch.tensor([5, 6, 5, 7]), torch.tensor([0.5, 0.2, 0.5, 0.3]).double().log()
    losses = []
    for row in range(4):
        scores = [float(q[row].detach() @ v[column].detach() - log_share[column]) for column in range(4)]
        others = [column for column in range(4) if column == row or item[column] != item[row]]
        losses.append(-math.log(math.exp(scores[row]) / sum(math.exp(scores[column]) for column in others)))
    assert float(in_batch_softmax(q, v, item, log_share).detach()) == pytest.approx(sum(losses) / 4, rel=1e-12)


def whole_in_batch(q: Tensor, v: Tensor, item: Tensor, log_share: Tensor, weight: Tensor | None) -> Tensor:
    """All logits at once, [P, P]."""
    other = ~torch.eye(len(q), dtype=torch.bool)
    logits = (q @ v.T - log_share).masked_fill((item[:, None] == item) & other, -torch.inf)
    return weighted_mean(cross_entropy(logits, torch.arange(len(q)), reduction="none"), weight)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("chunk", [1, 5, 13, 256])
def test_in_batch_in_chunks_as_at_once(chunk: int, weighted: bool) -> None:
    q, v, item = some(13, 13)
    item = item // 2  # several clicked the same
    log_share = torch.rand(7, dtype=torch.float64).log()[item]
    weight = torch.rand(13, dtype=torch.float64) if weighted else None
    loss = in_batch_softmax(q, v, item, log_share, weight, chunk=chunk)
    exact = whole_in_batch(q, v, item, log_share, weight)
    torch.testing.assert_close(loss, exact, rtol=1e-12, atol=1e-12)
    for found, wanted in zip(gradients(3 * loss, q, v), gradients(3 * exact, q, v), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-13)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation gives."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_in_batch_holds_a_chunk_of_logits_at_a_time() -> None:
    """Forward and backward, and keeps none of them in between."""
    number, chunk = 60, 4
    q, v, item = some(number, number)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with Largest() as largest, saved_tensors_hooks(keep, lambda tensor: tensor):
        in_batch_softmax(q, v, item, torch.zeros(number, dtype=torch.float64), chunk=chunk).backward()
    assert chunk * number <= largest.elements < number * number / 4
    assert sum(kept) < number * number / 4


def test_in_batch_correction_has_the_right_sign() -> None:
    """Corrected, a model that fits the data stands still, as under the full softmax; with no correction or the
    wrong sign it would be pushed away."""
    right = drift(lambda share: share)
    wrong = drift(lambda share: -share)
    none = drift(lambda share: torch.zeros_like(share))
    assert right < 0.35 * min(wrong, none), (right, wrong, none)
