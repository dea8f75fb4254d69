"""Consulted: the look-alike users and recall items that RAR's ranker asked about an item, and their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from corral.data.batches import Query
from corral.ranking.ranker import Ranker
from corral.rar.ranker import RarRanker
from corral.report.item_names import Item, ItemNames, feature_words
from corral.report.matching import Matched, matched
from corral.retrieval.evaluation_mode import evaluation_mode
from corral.serving.recommender import TwoStageRecommender
from corral.studio.masked_ranker import Mask, MaskedRanker

# Items of a look-alike that are shown.
LATEST = 3


@dataclass(frozen=True)
class LookAlike:
    """A user who is like the one asked about.

    Attributes:
        id: external id.
        features: what the data says of them.
        latest: names of their latest items, oldest first.
        weight: in what look-alikes have in common.
        left_out: the ranker was not told; the weight is 0.
    """

    id: str
    features: Mapping[str, str]
    latest: Sequence[str]
    weight: float
    left_out: bool


@dataclass(frozen=True)
class Consulted:
    """What the ranker asked about one item.

    Attributes:
        item: which.
        look_alikes: most like the user first.
        recalled: recall items of the item with their weights, most like it first.
        matched: look-alikes by recall items; None where there are none of either.
    """

    item: Item
    look_alikes: Sequence[LookAlike]
    recalled: Sequence[tuple[Item, float]]
    matched: Matched | None


def look_alike_rows(ranker: Ranker | None, query: Query) -> list[int]:
    """User rows that a ranker looks at for one query, 0 where there are no more; empty where it is not RAR's."""
    if not isinstance(ranker, RarRanker):
        return []
    snapshot = ranker.neighbours.rule.snapshot(query.time, query.user)
    found: list[int] = ranker.neighbours.of_queries(snapshot, query)[0].tolist()
    return found


@torch.no_grad()
def consulted(recommender: TwoStageRecommender, query: Query, item: int, mask: Mask) -> Consulted | None:
    """Of one query and item row; None where the ranker is not RAR's.

    Args:
        recommender: whose ranker and tables.
        query: of one user, on the models' device.
        item: item row.
        mask: what the ranker is not told.
    """
    ranker, tables = recommender.ranker, recommender.tables
    if not isinstance(ranker, RarRanker):
        return None
    names = ItemNames(tables.items, tables.item_features)
    with evaluation_mode(ranker):
        enriched = MaskedRanker(ranker, mask).enriched(query, torch.full((1, 1), item, device=query.user.device))
        there = enriched.user_rows > 0, enriched.item_rows > 0
        weights = [one[0, 0].tolist() for one in ranker.co_interaction.weights(enriched.matching, *there)]

    def user_name(row: int) -> str:
        return str(tables.users.external([row])[0])

    def look_alike(row: int, weight: float) -> LookAlike:
        latest = tables.histories.gather(torch.tensor([row]).numpy(), LATEST)[0].tolist()
        seen = [names.item(one).name for one in latest if one]
        features = feature_words(tables.user_features, row)
        return LookAlike(user_name(row), features, seen, weight, row in mask.look_alikes)

    recalled = zip(enriched.item_rows[0, 0].tolist(), weights[1], strict=True)
    return Consulted(
        names.item(item),
        [
            look_alike(row, weight)
            for row, weight in zip(look_alike_rows(ranker, query), weights[0], strict=True)
            if row
        ],
        [(names.item(row), weight) for row, weight in recalled if row],
        matched(enriched, names.item(item).name, user_name, lambda row: names.item(row).name),
    )
