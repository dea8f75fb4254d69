"""An LCRON-style end-to-end surrogate: the clicked item shall survive both stages (arXiv 2503.09492).

Each stage's order over the shared set is relaxed by NeuralSort (Grover et al., ICLR 2019); the mass of an item
in the first k rows stands for the probability that the stage keeps it, the product for surviving the funnel.

Shape letters: P examples, N draws shared by both stages, n = 1 + N.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corral.corr.stages import Stages
from corral.corr.stages_objective import StagesObjective
from corral.data.batches import Batch, SequenceBatch
from corral.data.whole_batch import total
from corral.sampling.sampler import Sampler


def total_distances(scores: Tensor, valid: Tensor) -> Tensor:
    """sum over valid l of |s_j - s_l|, for each j [P, n]; by sorting, n log n instead of n x n.

    Args:
        scores: [P, n].
        valid: [P, n] bool.

    Returns:
        [P, n], 0 where not valid.
    """
    # Those that do not count lie at the end, with the value 0 in all sums.
    ordered, order = scores.masked_fill(~valid, -torch.inf).sort(dim=1, descending=True)
    counted = valid.gather(1, order)
    ordered = ordered.masked_fill(~counted, 0.0)
    sums = ordered.cumsum(1)
    place = torch.arange(1, scores.shape[1] + 1, device=scores.device)
    count = valid.sum(1, keepdim=True)
    # (what lies above) - (j - 1) s_j  +  (count - j) s_j - (what lies below)
    distances = (sums - ordered) - (sums[:, -1:] - sums) + (count + 1 - 2 * place) * ordered
    return torch.zeros_like(distances).scatter(1, order, distances.masked_fill(~counted, 0.0))


def log_top_mass(scores: Tensor, valid: Tensor, *, k: int, temperature: float) -> Tensor:
    """Log of each item's mass in the first k rows of NeuralSort, at most 0.

    Row i of the relaxed permutation is softmax over j of ((n + 1 - 2 i) s_j - sum_l |s_j - s_l|) / temperature,
    n the number of valid items. Rows sum to 1, columns need not: a mass above 1 counts as 1, without gradient.
    As the temperature goes to 0 it becomes membership in the k best.

    Args:
        scores: [P, n]; gradient.
        valid: [P, n] bool; the others neither have a mass nor take a place. At least one in each row.
        k: at least 1; rows beyond the number of valid items do not count.
        temperature: > 0, in units of the score **times n**, since differences are summed over n items.

    Returns:
        [P, n], natural logarithm, in float32 at least; -inf where not valid.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    count = valid.sum(1)[:, None, None]
    row = torch.arange(1, min(k, scores.shape[1]) + 1, device=scores.device)[:, None]
    distances = total_distances(scores, valid)[:, None]
    inside = valid[:, None]
    # A finite, hopeless logit where not valid: -inf would make NaN gradients in the sum over rows.
    logits = ((count + 1 - 2 * row) * scores[:, None] - distances) / temperature
    log_rows = torch.log_softmax(logits.masked_fill(~inside, -torch.inf), dim=2)
    log_rows = log_rows.masked_fill(~(inside & (row <= count)), _NEVER)
    return torch.logsumexp(log_rows, dim=1).clamp(max=0.0).masked_fill(~valid, -torch.inf)


# The log of "no mass at all": finite, because -inf would make NaN gradients in the sum over rows.
_NEVER = -1e4


def lcron_losses(
    scores: Tensor,
    logits: Tensor,
    hit: Tensor,
    *,
    k_retriever: int,
    k_ranker: int,
    temperature: float,
    rejection: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The clicked item shall survive the funnel, and each stage by itself; natural logarithms.

    Survival: -log(p_retriever p_ranker) of the clicked item, and ``rejection`` times
    sum over the other items j of -log(1 - p_retriever(j) p_ranker(j)). The first part alone is a sum of one
    term per stage, so that neither stage's gradient knows of the other. The second part makes them one
    network, as in the published code; but with one clicked item and k_ranker > 1 it punishes the items that
    must fill the other places, and taught the stages to disagree on them.

    Args:
        scores: retriever scores [P, n], column 0 the clicked item; gradient.
        logits: ranker logits [P, n]; gradient.
        hit: True where a draw is the clicked item [P, N]; left out of both orders.
        k_retriever: how many items the retriever keeps.
        k_ranker: how many the ranker keeps.
        temperature: of both relaxations, in units of the score times n.
        rejection: weight of the other items, at least 0.

    Returns:
        Survival, -log p_retriever, -log p_ranker: scalars, means over P; 0 for P = 0.
    """
    valid = torch.cat([torch.ones_like(hit[:, :1]), ~hit], 1)
    retriever = log_top_mass(scores, valid, k=k_retriever, temperature=temperature)
    ranker = log_top_mass(logits, valid, k=k_ranker, temperature=temperature)
    count = max(total(len(scores)), 1)
    stages = -retriever[:, 0].sum() / count, -ranker[:, 0].sum() / count
    survival = stages[0] + stages[1]
    if rejection:
        both = (retriever + ranker)[:, 1:].masked_fill(hit, _NEVER).exp()
        # An item that both stages keep for sure costs -log 1e-6, not infinity.
        survival = survival - rejection * torch.log1p(-both.clamp(max=1 - 1e-6)).sum() / count
    return survival, *stages


class LcronObjective(StagesObjective):
    """LCRON-style training over the clicked item and N draws.

    total = survival + sum over both stages of e^(-w) (-log p_stage) + w, with a learned w per stage (Kendall
    et al., CVPR 2018). The draws are taken as they come: no log-Q correction is known for an order.

    Args:
        stages: the two models.
        sampler: where the draws come from; it sees the retriever's item vectors at every refresh.
        num_negatives: N.
        k_retriever: how many of the 1 + N items the retriever keeps, at least 1.
        k_ranker: how many the ranker keeps.
        temperature: of NeuralSort, in units of the score; multiplied by 1 + N for :func:`log_top_mass`.
        rejection: weight of the items that were not clicked; see :func:`lcron_losses`.
        seed: of the draws.
    """

    def __init__(
        self,
        stages: Stages,
        sampler: Sampler,
        *,
        num_negatives: int = 100,
        k_retriever: int = 10,
        k_ranker: int = 1,
        temperature: float = 1.0,
        rejection: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(stages, sampler, num_negatives=num_negatives, seed=seed)
        if not 1 <= k_ranker <= k_retriever <= num_negatives:
            raise ValueError(
                f"needs 1 <= k_ranker <= k_retriever <= num_negatives, got {k_ranker}, {k_retriever}, {num_negatives}"
            )
        if temperature <= 0 or rejection < 0:
            raise ValueError(f"needs temperature > 0 and rejection >= 0, got {temperature} and {rejection}")
        self.k_retriever, self.k_ranker = k_retriever, k_ranker
        self.temperature, self.rejection = temperature, rejection
        self.log_variances = nn.Parameter(torch.zeros(2))

    def forward(self, batch: Batch | SequenceBatch) -> dict[str, Tensor]:
        """The loss of a batch and its three parts, unweighted."""
        encoded = self.stages.encode(batch)
        drawn = self.stages.sample(encoded, self.sampler, self.num_negatives, self.generator)
        survival, retriever, ranker = lcron_losses(
            drawn.scores,
            drawn.logits,
            drawn.hit,
            k_retriever=self.k_retriever,
            k_ranker=self.k_ranker,
            temperature=self.temperature * (1 + self.num_negatives),
            rejection=self.rejection,
        )
        # Of a share of a batch, its part of the penalty.
        penalty = self.log_variances * (len(drawn.scores) / max(total(len(drawn.scores)), 1))
        weighted = (torch.exp(-self.log_variances) * torch.stack([retriever, ranker]) + penalty).sum()
        return {"total": survival + weighted, "survival": survival, "retriever": retriever, "ranker": ranker}
