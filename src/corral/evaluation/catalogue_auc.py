"""catalogue_auc: how often the whole funnel places a target above an item that is none, over all unseen items."""

from __future__ import annotations

import torch
from torch import Tensor

from corral.data.targets import Targets
from corral.evaluation.funnel import Funnel, RankerCall
from corral.evaluation.metrics import ordinals, ranks_by_score, target_ranks
from corral.evaluation.mixture import Mixture, final_scores
from corral.evaluation.result import Stage
from corral.retrieval.channels import RecallChannel


def catalogue_auc(
    targets: Targets,
    channel: RecallChannel,
    ranker: RankerCall | None,
    mixture: Mixture | None,
    served: Stage,
    *,
    num_candidates: int,
    num_items: int,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> float:
    """Mean over targets of 1 - (other items above it) / (other items): candidates first, as they are served.

    What stage 1 left out stands behind the candidates in stage 1's order. Other targets of the query are no "other
    items". A target that no list holds (outside the catalogue, or seen) has AUC 0.

    Args:
        targets: the queries.
        channel: stage 1; it is asked for all items.
        ranker: stage 2; None: stage 1's order alone.
        mixture: of both scores.
        served: which order is served.
        num_candidates: N, as served.
        num_items: items of the catalogue.
        batch_size: queries at a time; memory is ``batch_size * num_items``.
        device: where both stages live.
    """
    total, count = 0.0, 0
    recall_only = Funnel(channel, None, num_items)
    for scored in recall_only.run(targets, num_items, batch_size, device):
        everything = scored.recalled
        rank = target_ranks(everything.items, scored.target, scored.owner)
        if ranker is not None:
            some = everything.top(num_candidates)
            logits = Funnel(channel, ranker, num_candidates).rank(scored.query, some.items)
            scores = final_scores(served, some, logits, mixture)
            first = ranks_by_score(some.items, scores, scored.target, scored.owner)
            rank = torch.where(first > 0, first, rank)
        total += float(_auc(rank, scored.owner, everything.mask.sum(1)).sum())
        count += len(rank)
    return total / max(count, 1)


def _auc(rank: Tensor, owner: Tensor, length: Tensor) -> Tensor:
    """AUC of each target [n], float64, of ranks in lists of so many items [B]; 0 where it is in none."""
    found = rank > 0
    place = ordinals(rank, owner, len(length))  # how many targets stand there or above
    others = length - torch.zeros_like(length).index_add_(0, owner, found.to(length.dtype))
    above = (rank - place).double()
    return torch.where(found, 1.0 - above / others[owner].clamp(min=1), 0.0)
