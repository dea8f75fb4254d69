"""Entry: a candidate, its places and scores in both stages, and where its logit comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from corral.report.item_names import Item, ItemNames, feature_words
from corral.serving.recommendations import Recommendations
from corral.serving.recommender import TwoStageRecommender
from corral.studio.masked_ranker import Source
from corral.studio.what_if import WhatIf


@dataclass(frozen=True)
class Reasons:
    """Where a logit comes from; see ``WhatIf``."""

    changes: Mapping[Source, float]
    bare: float
    total: float
    remainder: float


@dataclass(frozen=True)
class Entry:
    """A candidate.

    Attributes:
        item: which.
        features: what the data says of it.
        place: in the final list, from 1.
        before: the same with nothing changed; 0: it was no candidate.
        retriever_place, retriever_score: of stage 1.
        ranker_place, logit: of stage 2; None without one.
        score: what the final list is sorted by.
        reasons: of the logit; None likewise.
    """

    item: Item
    features: Mapping[str, str]
    place: int
    before: int
    retriever_place: int
    retriever_score: float
    ranker_place: int | None
    logit: float | None
    score: float
    reasons: Reasons | None


def candidate_rows(recommender: TwoStageRecommender, found: Recommendations) -> torch.Tensor:
    """Item rows [1, T] of the list of one user, on the models' device."""
    rows = recommender.tables.items.rows(found.item_ids[0][: int(found.counts[0])])
    return torch.from_numpy(rows).long()[None].to(recommender.device)


def entries(
    recommender: TwoStageRecommender, found: Recommendations, served: Recommendations, reasons: WhatIf | None
) -> list[Entry]:
    """All candidates of one user in their final order.

    Args:
        recommender: whose ids and features.
        found: all candidates as the final list, explained.
        served: the same with nothing changed.
        reasons: of these candidates; None without a ranker.
    """
    tables, explained = recommender.tables, found.explanation
    assert explained is not None
    names = ItemNames(tables.items, tables.item_features)
    before = {item: place for place, item in enumerate(served.item_ids[0], 1) if item is not None}
    listed = []
    for column, row in enumerate(candidate_rows(recommender, found)[0].tolist()):
        ranks, logits = explained.ranker_ranks, explained.ranker_logits
        listed.append(
            Entry(
                item=names.item(row),
                features=feature_words(tables.item_features, row),
                place=column + 1,
                before=before.get(found.item_ids[0][column], 0),
                retriever_place=int(explained.retriever_ranks[0, column]),
                retriever_score=float(explained.retriever_scores[0, column]),
                ranker_place=None if ranks is None else int(ranks[0, column]),
                logit=None if logits is None else float(logits[0, column]),
                score=float(found.scores[0, column]),
                reasons=None if reasons is None else _reasons(reasons, column),
            )
        )
    return listed


def _reasons(of: WhatIf, column: int) -> Reasons:
    changes = {source: float(change[0, column]) for source, change in of.changes.items()}
    return Reasons(changes, *(float(part[0, column]) for part in (of.bare, of.total, of.remainder)))
