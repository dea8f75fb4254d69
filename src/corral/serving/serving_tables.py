"""ServingTables: what a recommender knows of users and items, as of the export."""

from __future__ import annotations

from dataclasses import dataclass

from corral.data.features import FeatureTable
from corral.data.vocabulary import Vocabulary
from corral.serving.histories import UserHistories


@dataclass(frozen=True)
class ServingTables:
    """What the recommender knows of users and items, as of the export.

    Attributes:
        users: user ids <-> rows.
        items: item ids <-> rows.
        user_features: by user row.
        item_features: by item row.
        histories: what each user did.
    """

    users: Vocabulary
    items: Vocabulary
    user_features: FeatureTable
    item_features: FeatureTable
    histories: UserHistories
