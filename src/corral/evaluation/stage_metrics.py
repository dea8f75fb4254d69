"""Metrics of both stages, their mixture and the oracle bounds, for one batch of queries.

Shape letters: B queries, N candidates, n targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from corral.data.batches import Query
from corral.evaluation.funnel import Funnel, FunnelBatch
from corral.evaluation.metrics import (
    list_auc,
    list_metrics,
    ordinals,
    rank_agreement,
    ranked,
    ranks_by_score,
    recall,
    relevant_counts,
    target_ranks,
)
from corral.evaluation.mixture import Mixture
from corral.evaluation.result import Stage


def _some(query: Query, rows: Tensor) -> Query:
    """The queries at ``rows``."""
    return Query(
        query.user[rows],
        query.event[rows],
        query.history[rows],
        query.time[rows],
        {name: value[rows] for name, value in query.features.items()},
    )


class BatchMetrics:
    """Metrics of one batch: ``values`` by name [B], ``ranks`` by list [n]."""

    def __init__(self, scored: FunnelBatch, cutoffs: Sequence[int], recall_cutoffs: Sequence[int]) -> None:
        self.scored, self.cutoffs, self.recall_cutoffs = scored, cutoffs, recall_cutoffs
        self.n_relevant = relevant_counts(scored.owner, len(scored.query))
        self.values: dict[str, Tensor] = {}
        self.ranks: dict[str, Tensor] = {}

    def judge_stages(self, mixture: Mixture | None) -> dict[Stage, Tensor]:
        """Ranks and metrics of every stage's list; returns the lists' item rows."""
        scored, candidates = self.scored, self.scored.candidates
        lists = {Stage.RETRIEVER: scored.recalled.items}
        scores = {Stage.RETRIEVER: candidates.scores}
        if scored.logits is not None:
            scores[Stage.RANKER] = scored.logits
            if mixture is not None:
                scores[Stage.FUSED] = mixture(candidates.scores, scored.logits, candidates.mask)
        for stage, stage_scores in scores.items():
            if stage is not Stage.RETRIEVER:
                lists[stage] = ranked(candidates.items, stage_scores).items
            self._judge(stage.value, target_ranks(lists[stage], scored.target, scored.owner), None)
        rank = self.ranks["retriever"]
        for k in self.recall_cutoffs:
            self.values[f"retriever/recall@{k}"] = recall(rank, scored.owner, self.n_relevant, k)
        among = target_ranks(candidates.items, scored.target, scored.owner)
        self._judge("oracle-ranker", ordinals(among, scored.owner, len(scored.query)), ("ndcg", "recall"))
        self.ranks["candidates"] = among
        if scored.logits is not None:
            self._judge_given_candidates(scores, among > 0)
            self.values["agreement/spearman"] = rank_agreement(candidates.items, scored.logits)
        return lists

    def judge_oracle_retriever(self, funnel: Funnel) -> None:
        """The ranker's order of the candidates and the targets stage 1 missed, ranked in a second call
        (so that the first is exactly what serving would ask)."""
        scored = self.scored
        missing = (self.ranks["candidates"] == 0) & (scored.target > 1)
        owner, target = scored.owner[missing], scored.target[missing]
        items, logits = scored.candidates.items, scored.logits
        assert logits is not None
        if len(owner):
            rows = owner.unique()
            # Column of each missed target among those of its query: its place counted in a fixed order.
            place = torch.arange(1, len(owner) + 1, device=owner.device)
            column = ordinals(place, owner, len(scored.query)) - 1
            extra = torch.zeros(len(items), int(column.max()) + 1, dtype=items.dtype, device=items.device)
            extra[owner, column] = target
            extra_logits = torch.full(extra.shape, -torch.inf, dtype=logits.dtype, device=logits.device)
            extra_logits[rows] = funnel.rank(_some(scored.query, rows), extra[rows])
            items, logits = torch.cat([items, extra], dim=1), torch.cat([logits, extra_logits], dim=1)
        rank = ranks_by_score(items, logits, scored.target, scored.owner)
        self._judge("oracle-retriever", rank, ("ndcg", "recall"))

    def _judge(self, name: str, rank: Tensor, only: tuple[str, ...] | None) -> None:
        self.ranks[name] = rank
        found = list_metrics(rank, self.scored.owner, self.n_relevant, self.cutoffs)
        for metric, value in found.items():
            if only is None or metric.split("@")[0] in only:
                self.values[f"{name}/{metric}"] = value

    def _judge_given_candidates(self, scores: Mapping[Stage, Tensor], found: Tensor) -> None:
        """nDCG and AUC over the targets stage 1 found; NaN for queries where it found none."""
        scored = self.scored
        target, owner = scored.target[found], scored.owner[found]
        n_found = torch.bincount(owner, minlength=len(scored.query))
        for stage, stage_scores in scores.items():
            rank = self.ranks[stage.value][found]
            values = list_metrics(rank, owner, n_found.clamp(min=1), self.cutoffs)
            for k in self.cutoffs:
                name = f"{stage.value}-given-candidates/ndcg@{k}"
                self.values[name] = values[f"ndcg@{k}"].masked_fill(n_found == 0, torch.nan)
            self.values[f"{stage.value}-given-candidates/auc"] = list_auc(
                scored.candidates.items, stage_scores, target, owner
            )
