"""forget_user: a Dataset as if a user had never been there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from corral.data.dataset import Dataset
from corral.data.dataset_append import only_writer
from corral.data.dataset_interactions import interactions_of
from corral.data.dataset_write import Progress, write_directory
from corral.data.rare_filter import Filters
from corral.data.vocabulary import UNKNOWN


@dataclass(frozen=True)
class Forgotten:
    """What a Dataset knew of a user.

    Attributes:
        events: theirs.
        impressions: what they were shown.
        features: whether there was a row of features.
    """

    events: int
    impressions: int
    features: bool


def forget_user(path: str | Path, user: int | str, *, progress: Progress | None = None) -> Forgotten:
    """Removes a user's events, impressions, features and id from a Dataset, in its place; whole or not at all.

    It is the Dataset of everybody else's rows, all of them: items that only this user had are gone too, rows of users
    and items move, and so does the hash. Filters are not applied again, as they would take others' events, who are
    still there to be served: the header keeps them and what they left out when the Dataset was made. Texts of bad rows
    that were skipped when it was first read are dropped.

    Args:
        path: the Dataset directory.
        user: of the type of its ids.
        progress: as in ``Dataset.write``.

    Raises:
        ValueError: the id is of another type, nobody else has events, or an append is under way.
        FileNotFoundError: there is no Dataset.
    """
    path = Path(path)
    with only_writer(path):
        dataset = Dataset.open(path)
        row = int(dataset.users.rows([user])[0])
        if row == UNKNOWN:
            return Forgotten(0, 0, False)
        old, others = interactions_of(dataset), pl.col("user_id") != user
        events = old.events.filter(others)
        if events.is_empty():
            raise ValueError(f"{path}: user {user!r} is the only one with events: delete the data set")
        impressions = None if old.impressions is None else old.impressions.filter(others)
        features = None if old.user_features is None else old.user_features.filter(others)
        header = dataset.header
        write_directory(
            path,
            replace(old, events=events, impressions=impressions, user_features=features),
            name=dataset.name,
            filters=Filters(header.min_user_events, header.min_item_events, header.iterate),
            overwrite=True,
            progress=progress,
            filtered=header.counts,
        )
        shown = 0 if old.impressions is None or impressions is None else len(old.impressions) - len(impressions)
        return Forgotten(len(old.events) - len(events), shown, features is not None)
