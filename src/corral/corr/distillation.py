"""CoRR, L_KD: the retriever learns the ranker's order over a sample."""

from __future__ import annotations

import torch
from torch import Tensor

from corral.training.losses import full_precision


def distillation_terms(scores: Tensor, logits: Tensor, log_q: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Sampled KL from ranker to retriever of each example; natural logarithm.

    p_ra(j) = softmax_j(r_j / T - log Q(j)), p_re(j) = softmax_j(s_j / T - log Q(j)), both over the draws alone:

        L_KD = sum_j p_ra(j) (log p_ra(j) - log p_re(j)).

    Both are self-normalised importance weights, so this converges to KL(softmax(r / T) || softmax(s / T))
    over the whole catalogue as N grows, with a bias of order 1/N, for any Q with full support.

    Args:
        scores: the retriever's scores of the draws [P, N]; the only one that carries gradient.
        logits: the ranker's logits of the same draws [P, N].
        log_q: log-probability of each draw [P, N], normalised. Draws of the clicked item stay, as do repeats.
        temperature: T > 0.

    Returns:
        [P], >= 0.
    """
    teacher = (full_precision(logits.detach()) / temperature - log_q).log_softmax(1)
    student = (full_precision(scores) / temperature - log_q).log_softmax(1)
    return (teacher.exp() * (teacher - student)).sum(1)


def full_kl(scores: Tensor, logits: Tensor) -> Tensor:
    """KL(softmax(r) || softmax(s)) of each query over the whole catalogue: what L_KD estimates.

    Args:
        scores: [P, M].
        logits: [P, M].

    Returns:
        [P].
    """
    teacher, student = logits.log_softmax(1), scores.log_softmax(1)
    return (teacher.exp() * (teacher - student)).sum(1)


def effective_sample_size(values: Tensor, log_q: Tensor) -> Tensor:
    """How many draws the importance weights are worth: 1 / sum of squared normalised weights e^v / Q.

    Args:
        values: scores or logits of the draws [P, N].
        log_q: [P, N].

    Returns:
        [P], in [1, N].
    """
    weight = torch.softmax(values - log_q, 1)
    return 1.0 / weight.square().sum(1)
