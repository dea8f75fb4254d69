"""The planted answers are what they say."""

from __future__ import annotations

import numpy as np
import pytest

from corral.data.synthetic import checkerboard_world, markov_world


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_markov_world(noise: float) -> None:
    world = markov_world(50, 20, length=15, noise=noise)
    events = world.interactions.events.sort("user_id", "timestamp")
    assert not events.select("user_id", "timestamp").is_duplicated().any()
    item = events["item_id"].to_numpy().reshape(50, 15)
    followed = float((world.successor[item[:, :-1]] == item[:, 1:]).mean())
    assert followed == pytest.approx(world.followed)
    assert followed == pytest.approx(1 - noise * 19 / 20, abs=0.05)
    visited, at = set(), 0  # one cycle through all items
    for _ in range(20):
        visited.add(at)
        at = int(world.successor[at])
    assert at == 0
    assert len(visited) == 20
    # Every stretch of time holds all users: no time cut has cold ones.
    time = events["timestamp"].to_numpy().reshape(50, 15)
    assert (time // 50 == np.arange(15)).all()


def test_checkerboard_world() -> None:
    world = checkerboard_world(60, 24, groups=3, length=10, noise=0.2)
    events = world.interactions.events
    liked = float(world.likes(events["user_id"].to_numpy(), events["item_id"].to_numpy()).mean())
    assert liked == pytest.approx(world.liked)
    assert liked == pytest.approx(1 - 0.2 * 2 / 3, abs=0.05)
    assert np.bincount(world.user_group).tolist() == [20] * 3
    assert np.bincount(world.item_group).tolist() == [8] * 3
    users, items = world.interactions.user_features, world.interactions.item_features
    assert users is not None
    assert items is not None
    assert users["taste"].to_list() == [f"taste {group}" for group in world.user_group]
    assert items["shelf"].to_list() == [f"shelf {group}" for group in world.item_group]
    assert all(f"tag {g}" in tags for g, tags in zip(world.item_group, items["tags"].to_list(), strict=True))
    assert 0 < items["price"].null_count() < 24


def test_the_same_seed_gives_the_same_world() -> None:
    for make in (markov_world, checkerboard_world):
        first, again, other = (make(10, 6, length=5, seed=seed).interactions.events for seed in (1, 1, 2))
        assert first.equals(again)
        assert not first.equals(other)
