"""Matched: which look-alike users and recall items RAR's ranker asked about an item, and its matching matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from corral.data.batches import Query
from corral.rar.ranker import RarRanker
from corral.retrieval.evaluation_mode import evaluation_mode


@dataclass(frozen=True)
class Matched:
    """RAR's evidence for one item of one list.

    Attributes:
        item: whose neighbours were asked.
        users: look-alike users, external ids [Ku].
        items: recall items, titles or ids [Ki].
        matrix: G [Ku, Ki]: is this kind of user interested in this kind of item, in (0, 1).
    """

    item: str
    users: Sequence[str]
    items: Sequence[str]
    matrix: np.ndarray


def matched(
    ranker: RarRanker,
    query: Query,
    item: int,
    user_name: Callable[[int], str],
    item_name: Callable[[int], str],
) -> Matched | None:
    """What the ranker saw of one query and item row; None where it found no look-alikes or no recall items.

    Args:
        ranker: of the list.
        query: one query.
        item: item row.
        user_name, item_name: what people call a row.
    """
    rows = torch.full((1, 1), item, device=query.user.device)
    with torch.no_grad(), evaluation_mode(ranker):
        enriched = ranker.enriched(query, rows)
    users, items = (found[found > 0].tolist() for found in (enriched.user_rows[0], enriched.item_rows[0, 0]))
    if not users or not items:
        return None
    held = enriched.user_rows[0] > 0, enriched.item_rows[0, 0] > 0
    matrix = torch.sigmoid(enriched.matching.logits[0, 0].float())[held[0]][:, held[1]].cpu().numpy()
    return Matched(item_name(item), [user_name(row) for row in users], [item_name(row) for row in items], matrix)
