"""A planted world for RAR: who likes what is known from look-alikes and recall items alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corral.data.batches import Batch, Query
from corral.data.vocabulary import FIRST_ROW


@dataclass(frozen=True)
class LabelledPairs:
    """n labelled pairs.

    Attributes:
        user: user rows [n], int64.
        item: item rows [n], int64.
        label: 0 or 1 [n], float32.
        noise: a context field that says nothing [n], int64 in 2 .. 11.
    """

    user: Tensor
    item: Tensor
    label: Tensor
    noise: Tensor

    def __len__(self) -> int:
        return len(self.user)

    def batch(self, at: Tensor) -> Batch:
        """Some of them, without histories, at time 0."""
        user, none = self.user[at], torch.zeros_like(self.user[at])
        query = Query(user, none - 1, user.new_zeros(len(at), 0), none, {"noise": self.noise[at]})
        return Batch(query, self.item[at], self.label[at])


@dataclass(frozen=True)
class TasteWorld:
    """Users of a dozen tastes, items of a dozen topics, half of which each taste likes.

    Attributes:
        train: pairs of warm users and items.
        valid, test: pairs of which **both** sides never occur in train.
        user_keys: [U, D]: where a user's cluster is, noisily; for the selector only.
        item_keys: [M, D].
        ceiling: AUC of the label's own probability on the test pairs.
    """

    train: LabelledPairs
    valid: LabelledPairs
    test: LabelledPairs
    user_keys: Tensor
    item_keys: Tensor
    ceiling: float


def taste_world(
    users: int = 1200,
    items: int = 800,
    *,
    groups: int = 12,
    rows_per_user: int = 40,
    flipped: float = 0.1,
    cold: float = 0.25,
    key_size: int = 32,
    key_noise: float = 0.6,
    seed: int = 0,
) -> TasteWorld:
    """The world of the RAR spec.

    Args:
        users, items: without reserved rows.
        groups: clusters of users and topics of items; each taste likes half of the topics, drawn at random.
        rows_per_user: pairs of each warm user with warm items; as many of each cold user with cold items.
        flipped: share of labels turned round.
        cold: share of users and of items that never occur in train.
        key_size: D.
        key_noise: of a key around its cluster's centre, whose coordinates are N(0, 1).
        seed: of everything.
    """
    random = np.random.default_rng(seed)
    likes = np.zeros((groups, groups), dtype=bool)
    for taste in range(groups):
        likes[taste, random.permutation(groups)[: groups // 2]] = True
    cluster, topic = random.integers(0, groups, users), random.integers(0, groups, items)

    def keys(group: np.ndarray) -> Tensor:
        centres = random.normal(size=(groups, key_size))
        drawn = centres[group] + key_noise * random.normal(size=(len(group), key_size))
        return torch.from_numpy(np.concatenate([np.zeros((FIRST_ROW, key_size)), drawn]).astype(np.float32))

    user_keys, item_keys = keys(cluster), keys(topic)
    cold_user, cold_item = random.random(users) < cold, random.random(items) < cold

    def pairs(who: np.ndarray, what: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        user = np.repeat(who, rows_per_user)
        item = what[random.integers(0, len(what), len(user))]
        wanted = likes[cluster[user], topic[item]]
        return user, item, wanted ^ (random.random(len(user)) < flipped), wanted

    def labelled(user: np.ndarray, item: np.ndarray, label: np.ndarray) -> LabelledPairs:
        noise = random.integers(FIRST_ROW, FIRST_ROW + 10, len(user))
        columns = [torch.from_numpy(column.astype(np.int64)) for column in (user + FIRST_ROW, item + FIRST_ROW, noise)]
        return LabelledPairs(columns[0], columns[1], torch.from_numpy(label.astype(np.float32)), columns[2])

    user, item, label, _ = pairs(np.flatnonzero(~cold_user), np.flatnonzero(~cold_item))
    train = labelled(user, item, label)
    user, item, label, wanted = pairs(np.flatnonzero(cold_user), np.flatnonzero(cold_item))
    half = random.permutation(len(user)) < len(user) // 2
    hit, miss = float(wanted[~half][label[~half]].mean()), float(wanted[~half][~label[~half]].mean())
    return TasteWorld(
        train,
        labelled(user[half], item[half], label[half]),
        labelled(user[~half], item[~half], label[~half]),
        user_keys,
        item_keys,
        # Two scores only: ties count one half.
        ceiling=hit * (1 - miss) + 0.5 * (hit * miss + (1 - hit) * (1 - miss)),
    )
