"""Small worlds with planted, known answers, for tests and for the documentation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from corral.data.interactions import Interactions


@dataclass(frozen=True)
class MarkovWorld:
    """A world where the last item decides the next one.

    Attributes:
        interactions: the events; users 0..U-1, items 0..M-1.
        successor: the item that follows each item [M], int64.
        followed: share of events (other than a user's first) that are their predecessor's successor.
    """

    interactions: Interactions
    successor: np.ndarray
    followed: float


def markov_world(
    users: int = 200, items: int = 40, *, length: int = 20, noise: float = 0.1, seed: int = 0
) -> MarkovWorld:
    """Users walk along one random cycle through all items; nothing but the last item helps to predict the next.

    Args:
        users: U.
        items: M.
        length: events of each user, at distinct times that interleave with those of other users.
        noise: share of events that are uniformly random items instead.
        seed: of everything.
    """
    random = np.random.default_rng(seed)
    cycle = random.permutation(items)
    successor = np.empty(items, dtype=np.int64)
    successor[cycle] = np.roll(cycle, -1)
    item = np.empty((users, length), dtype=np.int64)
    item[:, 0] = random.integers(0, items, users)
    for step in range(1, length):
        stray = random.random(users) < noise
        item[:, step] = np.where(stray, random.integers(0, items, users), successor[item[:, step - 1]])
    followed = float((item[:, 1:] == successor[item[:, :-1]]).mean())
    # One event a user in every stretch of `users` time units: all parts of a time cut hold all users.
    time = np.arange(length) * users + random.permuted(np.tile(np.arange(users), (length, 1)), axis=1).T
    events = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(users), length),
            "item_id": item.ravel(),
            "timestamp": time.ravel(),
        }
    )
    return MarkovWorld(Interactions.of(events, source="Markov world"), successor, followed)


@dataclass(frozen=True)
class CheckerboardWorld:
    """A world where users like the items of their own group, each alike.

    Attributes:
        interactions: the events, with features of users and items.
        user_group: group of each user [U], int64.
        item_group: group of each item [M], int64.
        liked: share of events within the user's group.
    """

    interactions: Interactions
    user_group: np.ndarray
    item_group: np.ndarray
    liked: float

    def likes(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Whether the groups agree, for user and item ids of any shape that broadcasts."""
        return self.user_group[user] == self.item_group[item]


def checkerboard_world(
    users: int = 200, items: int = 40, *, groups: int = 4, length: int = 20, noise: float = 0.1, seed: int = 0
) -> CheckerboardWorld:
    """Events are (user, item) pairs of one group; order and history say no more than the group does.

    Features say the group as well: a category of the user (``taste``) and of the item (``shelf``); the
    multi-valued ``tags`` of items hold it among strays; the numeric ``age`` and ``price`` say nothing, and
    are missing for some.

    Args:
        users: U, ids 0..U-1.
        items: M, ids 0..M-1.
        groups: number of groups; users and items are spread evenly over them.
        length: events of each user.
        noise: share of events that are uniformly random items instead.
        seed: of everything.
    """
    random = np.random.default_rng(seed)
    user_group = random.permutation(np.arange(users) % groups)
    item_group = random.permutation(np.arange(items) % groups)
    by_group = np.argsort(item_group, kind="stable")
    starts = np.searchsorted(item_group[by_group], np.arange(groups + 1))
    group = np.repeat(user_group, length)
    place = starts[group] + (random.random(len(group)) * np.diff(starts)[group]).astype(np.int64)
    item = np.where(random.random(len(group)) < noise, random.integers(0, items, len(group)), by_group[place])
    # Few distinct times: baskets, as in real logs.
    events = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(users), length),
            "item_id": item,
            "timestamp": random.integers(0, 5 * length, len(group)),
        }
    )

    def numbers(count: int) -> list[float | None]:
        return [None if missing else float(v) for v, missing in zip(*_draws(random, count), strict=True)]

    user_features = pl.DataFrame(
        {
            "user_id": np.arange(users),
            "taste": [f"taste {g}" for g in user_group],
            "age": pl.Series(numbers(users), dtype=pl.Float64),
        }
    )
    strays = random.integers(0, groups, items)
    item_features = pl.DataFrame(
        {
            "item_id": np.arange(items),
            "shelf": [f"shelf {g}" for g in item_group],
            "tags": [[f"tag {g}", f"stray {s}"] for g, s in zip(item_group, strays, strict=True)],
            "price": pl.Series(numbers(items), dtype=pl.Float64),
        }
    )
    return CheckerboardWorld(
        Interactions.of(events, user_features=user_features, item_features=item_features, source="checkerboard world"),
        user_group,
        item_group,
        float((np.repeat(user_group, length) == item_group[item]).mean()),
    )


def _draws(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal values, and which of them are missing (one in ten)."""
    return random.normal(50.0, 10.0, count), random.random(count) < 0.1
