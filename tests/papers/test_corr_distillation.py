"""CoRR, L_KD against the exact KL on a small catalogue, as N grows and for any proposal; what carries gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from corral.corr.distillation import distillation_terms, effective_sample_size, full_kl
from corral.corr.multi_index_sampler import MultiIndexSampler

M, SIZE, REPLICATES = 300, 8, 1500


def vectors() -> tuple[Tensor, Tensor]:
    """One query [1, D] and the catalogue's vectors [M, D]; scores with standard deviation about 1.2."""
    random = torch.Generator().manual_seed(3)
    query = torch.randn(1, SIZE, generator=random)
    return 1.2 * query / query.norm(), torch.randn(M, SIZE, generator=random)


def stages() -> tuple[Tensor, Tensor]:
    """Scores and logits of one query over the catalogue [M]: related, not equal."""
    random = torch.Generator().manual_seed(4)
    query, items = vectors()
    scores = (query @ items.T)[0].double()
    return scores, 0.2 * scores + 0.8 * torch.randn(M, generator=random, dtype=torch.float64)


def proposals() -> dict[str, Tensor]:
    """log Q [M] of the query: uniform, the multi-index with K codewords a half, and the exact softmax."""
    query, items = vectors()
    rows = torch.arange(2, M + 2)
    found = {
        "uniform": torch.zeros(M, dtype=torch.float64).log_softmax(0),
        "exact": (query @ items.T)[0].double().log_softmax(0),
    }
    for codewords in (8, 32, 128):
        sampler = MultiIndexSampler(rows, size=SIZE, num_codewords=codewords)
        sampler.refresh(items)
        found[f"midx {codewords}"] = sampler.log_q(query, rows[None])[0].double()
    return found


def estimate(scores: Tensor, logits: Tensor, log_q: Tensor, n: int, corrected: bool = True) -> Tensor:
    random = torch.Generator().manual_seed(n)
    drawn = torch.multinomial(log_q.exp(), REPLICATES * n, replacement=True, generator=random).view(REPLICATES, n)
    used = log_q[drawn] if corrected else torch.zeros(REPLICATES, n, dtype=torch.float64)
    return distillation_terms(scores[drawn], logits[drawn], used)


@pytest.mark.parametrize("name", ["uniform", "midx 8", "midx 32", "midx 128", "exact"])
def test_sampled_kl_converges_to_the_exact_one(name: str) -> None:
    scores, logits = stages()
    exact = float(full_kl(scores[None], logits[None]))
    log_q = proposals()[name]
    for n in (20, 100, 500, 2000):
        terms = estimate(scores, logits, log_q, n)
        error = 3 * float(terms.std()) / REPLICATES**0.5
        assert abs(float(terms.mean()) - exact) <= 10.0 / n + error, (name, n)


@pytest.mark.parametrize("name", ["midx 8", "midx 32", "midx 128", "exact"])
def test_without_log_q_it_converges_to_something_else(name: str) -> None:
    """KL(softmax(r + log Q) || softmax(s + log Q)); the test would notice if log Q were dropped."""
    scores, logits = stages()
    log_q = proposals()[name]
    wrong = float(full_kl((scores + log_q)[None], (logits + log_q)[None]))
    right = float(full_kl(scores[None], logits[None]))
    found = float(estimate(scores, logits, log_q, 2000, corrected=False).mean())
    assert abs(found - wrong) < 0.02
    assert abs(found - right) > 0.1


def test_uniform_needs_no_correction() -> None:
    scores, logits = stages()
    log_q = proposals()["uniform"]
    torch.testing.assert_close(
        estimate(scores, logits, log_q, 50), estimate(scores, logits, log_q, 50, corrected=False)
    )


def test_by_hand() -> None:
    scores, logits = torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 0.0]])
    log_q = torch.tensor([[0.5, 0.25]]).log()
    p_ra = torch.tensor([2.718281828**2 / 0.5, 1 / 0.25])
    p_re = torch.tensor([1 / 0.5, 2.718281828 / 0.25])
    p_ra, p_re = p_ra / p_ra.sum(), p_re / p_re.sum()
    wanted = (p_ra * (p_ra / p_re).log()).sum()
    torch.testing.assert_close(distillation_terms(scores, logits, log_q)[0], wanted)


def test_temperature_divides_both() -> None:
    scores, logits = stages()
    log_q = torch.zeros(1, M, dtype=torch.float64)
    torch.testing.assert_close(
        distillation_terms(scores[None], logits[None], log_q, temperature=3.0),
        full_kl(scores[None] / 3, logits[None] / 3),
    )


def test_of_half_precision() -> None:
    """Computed in float32, as of these very numbers."""
    scores, logits, log_q = (torch.randn(4, 6) for _ in range(3))
    scores, logits = scores.bfloat16(), logits.bfloat16()
    torch.testing.assert_close(
        distillation_terms(scores, logits, log_q, temperature=3.0),
        distillation_terms(scores.float(), logits.float(), log_q, temperature=3.0),
    )


def test_the_teacher_carries_no_gradient() -> None:
    scores, logits, log_q = (torch.randn(4, 6, requires_grad=True) for _ in range(3))
    distillation_terms(scores, logits, log_q.detach()).sum().backward()
    assert logits.grad is None
    assert scores.grad is not None
    assert float(scores.grad.abs().sum()) > 0


def test_gradient_is_student_minus_teacher() -> None:
    scores, logits, log_q = (torch.randn(4, 6, dtype=torch.float64) for _ in range(3))
    scores.requires_grad_()
    (gradient,) = torch.autograd.grad(distillation_terms(scores, logits, log_q).sum(), scores)
    torch.testing.assert_close(gradient, (scores - log_q).softmax(1) - (logits - log_q).softmax(1))


def test_effective_sample_size_of_even_and_of_single_weights() -> None:
    even, log_q = torch.zeros(1, 8), torch.zeros(1, 8)
    assert float(effective_sample_size(even, log_q)) == pytest.approx(8)
    single = even.clone()
    single[0, 3] = 60.0
    assert float(effective_sample_size(single, log_q)) == pytest.approx(1)
