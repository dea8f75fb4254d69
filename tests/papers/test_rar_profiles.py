"""Behaviour profiles by folds: every train event has look-alikes, of other folds, by items that never saw its user."""

from __future__ import annotations

import numpy as np
import torch

from corral.rar.neighbours import CataloguePools, Neighbours
from corral.rar.profile_keys import ProfileKeys
from corral.rar.selection import ExactSelector
from corral.rar.time_rules import TimeRule

USERS, ITEMS, FOLDS = 62, 42, 4
Log = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def log() -> Log:
    random = np.random.default_rng(0)
    user, item = random.integers(2, USERS, 1500), random.integers(2, ITEMS, 1500)
    return user, item, random.integers(0, 1000, 1500), random.normal(size=1500).astype(np.float32)


def fitted(rows: Log, rule: TimeRule) -> tuple[ProfileKeys, Neighbours]:
    keys = ProfileKeys.fit(*rows, num_users=USERS, num_items=ITEMS, rule=rule, size=8)
    neighbours = Neighbours(USERS, ITEMS, rule, look_alikes=6, recall_items=3)
    neighbours.refresh(keys, CataloguePools(*rows[:3], rule), (ExactSelector(), ExactSelector()))
    return keys, neighbours


def test_a_train_event_has_look_alikes_of_other_folds() -> None:
    rows, rule = log(), TimeRule.folds(USERS, FOLDS, seed=1)
    neighbours = fitted(rows, rule)[1]
    user, time = (torch.from_numpy(column) for column in (rows[0], rows[2]))
    found = neighbours.look_alike_users(rule.snapshot(time, user, learning=True), user)
    assert (found > 0).all()
    assert rule.fold is not None
    assert (rule.fold[found] != rule.fold[user][:, None]).all()
    judged = neighbours.look_alike_users(rule.snapshot(time, user), user)
    assert (judged > 0).all()
    assert (rule.fold[judged] == rule.fold[user][:, None]).any(), "all of train"


def test_a_rows_label_does_not_choose_its_own_neighbours() -> None:
    rows, rule = log(), TimeRule.folds(USERS, FOLDS, seed=1)
    before = fitted(rows, rule)[1]
    for event in range(0, 1500, 100):
        value = rows[3].copy()
        value[event] = -value[event] - 1.0
        after = fitted((*rows[:3], value), rule)[1]
        user, item, time = (torch.from_numpy(column[[event]]) for column in rows[:3])
        snapshot = rule.snapshot(time, user, learning=True)
        assert torch.equal(before.look_alike_users(snapshot, user), after.look_alike_users(snapshot, user))
        near = (one.recall_items(snapshot, user, item[:, None]) for one in (before, after))
        assert torch.equal(*near)


def test_a_folds_items_and_pool_do_not_know_its_users() -> None:
    """Other events of one fold's users: the vectors of its items, and of all others there, are the same."""
    rows, rule = log(), TimeRule.folds(USERS, FOLDS, seed=1)
    assert rule.fold is not None
    mine = rule.fold.numpy()[rows[0]] == 2
    item = rows[1].copy()
    item[mine] = np.random.default_rng(3).permutation(item[mine])
    before, after = (fitted(one, rule)[0] for one in (rows, (rows[0], item, rows[2], rows[3])))
    torch.testing.assert_close(before.items(2), after.items(2), rtol=0, atol=0)
    others = (rule.fold != 2).nonzero()[:, 0]
    torch.testing.assert_close(before.users(2)[others], after.users(2)[others], rtol=0, atol=0)
    assert not torch.equal(before.users(2), after.users(2)), "who asks is encoded by his own history"
    assert not torch.equal(before.items(3), after.items(3))
