"""StageProbe: how alike the two stages order candidates, and what more or fewer candidates would give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corral.data.candidates import Candidates
from corral.data.targets import Targets
from corral.evaluation.funnel import Funnel
from corral.evaluation.metrics import list_metrics, rank_agreement, ranking_order, ranks_by_score, relevant_counts
from corral.evaluation.mixture import Mixture, final_scores
from corral.evaluation.result import Stage
from corral.ranking.ranker import Ranker
from corral.retrieval.channels import RecallChannel

# Tenths of the candidates on each side of the picture; lists of so many times the candidates are tried.
BINS, DEEPER = 10, 4
TOP = "ndcg@10"


@dataclass(frozen=True)
class StageProbe:
    """Two looks at both stages over the same queries.

    Attributes:
        num_queries: how many were asked.
        spearman: correlation of the two orders of the served candidates, one a query (NaN: fewer than two) [Q].
        places: share of all candidates by the tenth they stand in by stage 1 (rows) and by stage 2 [BINS, BINS].
        counts: numbers of candidates that were tried, ascending.
        values: nDCG@10 of the served list with so many.
        ceilings: recall of stage 1 at so many.
    """

    num_queries: int
    spearman: np.ndarray
    places: np.ndarray
    counts: tuple[int, ...]
    values: tuple[float, ...]
    ceilings: tuple[float, ...]


def candidate_counts(num_candidates: int) -> tuple[int, ...]:
    """1, 2, 5, 10, ... up to ``DEEPER`` times what is served, that number among them."""
    most = DEEPER * num_candidates
    steps = {step * 10**power for power in range(7) for step in (1, 2, 5)}
    return tuple(sorted({step for step in steps if step < most} | {num_candidates, most}))


def stage_probe(
    targets: Targets,
    channel: RecallChannel,
    ranker: Ranker,
    mixture: Mixture | None,
    served: Stage,
    num_candidates: int,
    *,
    queries: int = 500,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
) -> StageProbe:
    """Asks both stages about a sample of the queries, with longer lists than are served.

    Args:
        targets: of the part that is reported.
        channel: stage 1.
        ranker: stage 2.
        mixture: of both scores.
        served: which order is served.
        num_candidates: N, as served.
        queries: at most so many.
        batch_size: queries at a time.
        device: where both stages live.
    """
    counts = candidate_counts(num_candidates)
    sample = targets.sample(queries, seed=0)
    sums, spearman, places = np.zeros((2, len(counts))), [], torch.zeros(BINS * BINS, dtype=torch.float64)
    for scored in Funnel(channel, ranker, counts[-1]).run(sample, counts[-1], batch_size, device):
        assert scored.logits is not None
        relevant = relevant_counts(scored.owner, len(scored.query))
        for number, count in enumerate(counts):
            some, logits = scored.candidates.top(count), scored.logits[:, :count]
            scores = final_scores(served, some, logits, mixture)
            rank = ranks_by_score(some.items, scores, scored.target, scored.owner)
            sums[0, number] += float(list_metrics(rank, scored.owner, relevant, [10])[TOP].sum())
            found = ranks_by_score(some.items, some.scores, scored.target, scored.owner) > 0
            inside = torch.zeros(len(relevant), dtype=torch.float64).index_add_(
                0, scored.owner.cpu(), found.double().cpu()
            )
            sums[1, number] += float((inside / relevant.cpu()).sum())
        some, logits = scored.candidates.top(num_candidates), scored.logits[:, :num_candidates]
        spearman.append(rank_agreement(some.items, logits).cpu().numpy())
        places += _places(some, logits).cpu()
    share = (places / places.sum().clamp(min=1)).view(BINS, BINS).numpy()
    values, ceilings = ((row / len(sample)).tolist() for row in sums)
    return StageProbe(len(sample), np.concatenate(spearman), share, counts, tuple(values), tuple(ceilings))


def _places(candidates: Candidates, logits: Tensor) -> Tensor:
    """Candidates counted by their tenth in stage 1's order and in stage 2's [BINS * BINS]."""
    order = ranking_order(candidates.items, logits)
    first = torch.arange(order.shape[1], device=order.device).expand_as(order)
    second = torch.empty_like(order).scatter_(1, order, first)
    size = candidates.mask.sum(1, keepdim=True).clamp(min=1)
    cell = (first * BINS // size).clamp(max=BINS - 1) * BINS + (second * BINS // size).clamp(max=BINS - 1)
    return torch.bincount(cell[candidates.mask], minlength=BINS * BINS).double()
