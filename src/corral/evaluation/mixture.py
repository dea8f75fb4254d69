"""The fused score: both stages' scores, standardised per query and mixed; the weight tuned on validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corral.data.candidates import Candidates
from corral.data.targets import Targets
from corral.evaluation.funnel import Funnel, RankerCall
from corral.evaluation.metrics import list_metrics, ranks_by_score, relevant_counts
from corral.evaluation.result import Stage
from corral.retrieval.channels import RecallChannel

# 0 = the retriever's order, 1 = the ranker's: both ends are in the grid, so fusing never loses on validation.
WEIGHTS: tuple[float, ...] = tuple(round(step * 0.05, 2) for step in range(21))


def standardised(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores of each query with mean 0 and standard deviation 1 over its candidates.

    Args:
        scores: [B, N], any float dtype.
        mask: True [B, N] where there is a candidate.

    Returns:
        [B, N] float64 (distinct float32 scores stay distinct); 0 where a query's scores are all
        equal, and at padding.
    """
    values = scores.double().masked_fill(~mask, 0.0)
    count = mask.sum(dim=1, keepdim=True).clamp(min=1)
    centred = (values - values.sum(dim=1, keepdim=True) / count).masked_fill(~mask, 0.0)
    deviation = (centred.square().sum(dim=1, keepdim=True) / count).sqrt()
    # A constant's deviation is rounding noise, not information: compare with the size of the scores.
    spread = deviation > 1e-12 * values.abs().amax(dim=1, keepdim=True) if values.shape[1] else deviation > 0
    return torch.where(spread, centred / deviation, 0.0)


@dataclass(frozen=True)
class Mixture:
    """score = (1 - weight) x standardised retriever score + weight x standardised ranker logit.

    Both are standardised per query over the candidates that are fused, so the weight means the same
    whatever scale the two models happen to have.

    Attributes:
        weight: in [0, 1]; 0 is the retriever's order, 1 the ranker's.
    """

    weight: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight <= 1.0:
            raise ValueError(f"mixture weight: {self.weight} is not in [0, 1]")

    def __call__(self, retriever_scores: Tensor, logits: Tensor, mask: Tensor) -> Tensor:
        """Fused scores [B, N], float64; -inf at padding.

        Args:
            retriever_scores: [B, N].
            logits: the ranker's, of the same candidates [B, N].
            mask: True [B, N] where there is a candidate.
        """
        return self.mix(standardised(retriever_scores, mask), standardised(logits, mask), mask)

    def mix(self, retriever: Tensor, ranker: Tensor, mask: Tensor) -> Tensor:
        """As calling, for scores [B, N] that are standardised already."""
        fused = (1.0 - self.weight) * retriever + self.weight * ranker
        return fused.masked_fill(~mask, -torch.inf)


def final_scores(stage: Stage, candidates: Candidates, logits: Tensor | None, mixture: Mixture | None) -> Tensor:
    """What the served list is sorted by [B, N]."""
    if stage is Stage.RETRIEVER or logits is None:
        return candidates.scores
    if stage is Stage.RANKER:
        return logits.masked_fill(~candidates.mask, -torch.inf)
    assert mixture is not None
    return mixture(candidates.scores, logits, candidates.mask)


@dataclass(frozen=True)
class MixtureTuning:
    """What tuning saw.

    Attributes:
        mixture: the best one.
        metric: the metric it is best by.
        weights: the grid.
        values: mean metric on the validation targets, one per weight.
        n_queries: how many queries the means are over.
    """

    mixture: Mixture
    metric: str
    weights: tuple[float, ...]
    values: tuple[float, ...]
    n_queries: int

    @property
    def ranker_value(self) -> float:
        """The metric of the ranker alone (weight 1; NaN if the grid lacks it)."""
        return self._value_at(1.0)

    @property
    def retriever_value(self) -> float:
        """The metric of the retriever alone, over the candidates (weight 0; NaN if the grid lacks it)."""
        return self._value_at(0.0)

    @property
    def fused_value(self) -> float:
        """The metric of the mixture chosen."""
        return self._value_at(self.mixture.weight)

    def _value_at(self, weight: float) -> float:
        return self.values[self.weights.index(weight)] if weight in self.weights else float("nan")


def simplest_best(weights: Sequence[float], values: Sequence[float], tolerance: float = 1e-12) -> float:
    """The weight with the highest value; among equals the simplest: 0 (no ranker), 1 (no fusing), then
    the most even mix, the smaller weight first.

    Raises:
        ValueError: no weights, or a value is NaN.
    """
    if len(weights) == 0 or np.isnan(values).any():
        raise ValueError(f"mixture: no best weight among {list(weights)} with values {list(values)}")
    best = max(values)
    tied = [weight for weight, value in zip(weights, values, strict=True) if value >= best - tolerance]
    return min(tied, key=lambda weight: (weight != 0.0, weight != 1.0, abs(weight - 0.5), weight))


def tune_mixture(
    targets: Targets,
    channel: RecallChannel,
    ranker: RankerCall,
    *,
    num_candidates: int = 100,
    metric: str = "ndcg@10",
    weights: Sequence[float] = WEIGHTS,
    batch_size: int = 512,
    device: torch.device | str = "cpu",
) -> MixtureTuning:
    """The weight that is best on validation targets: each stage is asked once, every weight judged on
    the same scores.

    Args:
        targets: validation queries; never the ones the mixture is then judged on.
        channel: stage 1.
        ranker: stage 2.
        num_candidates: N, as served.
        metric: one of nDCG, recall, hit, MRR, MAP at some k, as ``name@k``.
        weights: the grid, each in [0, 1].
        batch_size: queries at a time.
        device: where both stages live.
    """
    mixtures = [Mixture(weight) for weight in weights]
    kind, _, depth = metric.partition("@")
    if kind not in ("ndcg", "recall", "hit", "mrr", "map") or not depth.isdigit() or int(depth) < 1:
        raise ValueError(f"metric: {metric!r}; one of ndcg, recall, hit, mrr, map at some k, such as ndcg@10")
    if len(targets) == 0:
        raise ValueError("tune_mixture: there are no targets to tune on")
    totals, n_queries = np.zeros(len(mixtures)), 0
    for scored in Funnel(channel, ranker, num_candidates).run(targets, num_candidates, batch_size, device):
        candidates, n_relevant = scored.candidates, relevant_counts(scored.owner, len(scored.query))
        assert scored.logits is not None
        mask = candidates.mask
        retriever, logits = standardised(candidates.scores, mask), standardised(scored.logits, mask)
        for index, mixture in enumerate(mixtures):
            scores = mixture.mix(retriever, logits, mask)
            rank = ranks_by_score(candidates.items, scores, scored.target, scored.owner)
            totals[index] += float(list_metrics(rank, scored.owner, n_relevant, [int(depth)])[metric].sum())
        n_queries += len(scored.query)
    values = totals / n_queries
    best = Mixture(simplest_best(weights, list(values)))
    return MixtureTuning(best, metric, tuple(weights), tuple(float(value) for value in values), n_queries)
