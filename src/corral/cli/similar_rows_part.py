"""Similar rows with their labels, of a run's train events, or empty for those that a bundle holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corral.rar.behaviour import ItemLog
from corral.rar.exposure import PairLog
from corral.rar.keys import ProfileKeys
from corral.rar.neighbours import CataloguePools, Neighbours
from corral.rar.selection import ExactSelector
from corral.rar.similar_rows import SimilarRowsEvidence
from corral.rar.time_rules import TimeRule
from corral.rar.train_log import TrainLog


def similar_rows_evidence(
    chosen: Mapping[str, Any],
    rule: TimeRule,
    *,
    num_users: int,
    num_items: int,
    log: TrainLog | None = None,
    keys: ProfileKeys | None = None,
) -> SimilarRowsEvidence:
    """Similar rows as inputs of a ranker.

    Args:
        chosen: the settings.
        rule: the snapshots.
        num_users, num_items: rows of the vocabularies.
        log: the train log; without it and ``keys`` there is nothing in it, and what a bundle saved is loaded.
        keys: behaviour profiles.
    """
    people, own = ItemLog.empty(), PairLog.empty(num_items)
    near = Neighbours(num_users, num_items, rule, look_alikes=0, recall_items=chosen["near_items"])
    if log is not None and keys is not None:
        people = ItemLog.of(log.user, log.item, log.time, log.value, num_items=num_items, rule=rule)
        own = PairLog.of(*log.every, num_items=num_items)
        selector = ExactSelector("cosine")
        near.refresh(keys, CataloguePools(log.user, log.item, log.time, rule), (selector, selector))
    return SimilarRowsEvidence(
        ProfileKeys.empty() if keys is None else keys,
        people,
        own,
        near,
        count=chosen["rows"],
        people_per_item=chosen["people"],
        history_length=chosen["history_length"],
    )
