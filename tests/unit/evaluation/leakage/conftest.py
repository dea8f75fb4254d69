"""A small shop with ties, values and impressions, for all checks for leaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.data.split import Split, leave_last_two_out, random_split, time_cut
from corral.data.synthetic import checkerboard_world

SPLITS = {
    "time-cut": time_cut,
    "leave-last-two-out": leave_last_two_out,
    "random": random_split,
}


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """60 users, 40 items, values 0..4, times 0..99 with many ties; impressions; no row is there twice."""
    made = checkerboard_world(60, 40, length=20, seed=3).interactions
    events = made.events.unique(["user_id", "item_id", "timestamp"], maintain_order=True)
    random = np.random.default_rng(5)
    events = events.with_columns(pl.Series("value", random.integers(0, 5, len(events)), dtype=pl.Float32))
    shown = pl.DataFrame(
        {
            "user_id": random.integers(0, 60, 400),
            "item_id": random.integers(0, 40, 400),
            "timestamp": random.integers(0, 100, 400),
        }
    ).unique(["user_id", "item_id", "timestamp"], maintain_order=True)
    shown = shown.join(events, on=["user_id", "item_id", "timestamp"], how="anti")
    interactions = Interactions.of(
        events, impressions=shown, user_features=made.user_features, item_features=made.item_features, source="shop"
    )
    return Dataset.write(Path(tmp_path_factory.mktemp("shop")) / "data", interactions)


@pytest.fixture(params=sorted(SPLITS))
def split(request: pytest.FixtureRequest, shop: Dataset) -> Split:
    """Each rule in turn."""
    made: Split = SPLITS[request.param](shop)
    return made
