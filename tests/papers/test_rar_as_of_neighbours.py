"""Look-alikes as of the event: by the asker's own history, strictly before it, from earlier blocks' people."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from corral.data.batches import Query
from corral.rar.as_of_neighbours import AsOfNeighbours
from corral.rar.exposure import PairLog
from corral.rar.neighbours import CataloguePools
from corral.rar.profile_keys import ProfileKeys
from corral.rar.selection import ExactSelector
from corral.rar.time_rules import Rule, TimeRule

USERS, ITEMS, LENGTH, COUNT = 40, 30, 6, 5
Log = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def log() -> Log:
    """Users 30 and above come late; every pair once."""
    random = np.random.default_rng(0)
    pairs = random.permutation((USERS - 2) * (ITEMS - 2))[:500]
    user, item = pairs // (ITEMS - 2) + 2, pairs % (ITEMS - 2) + 2
    time = random.permutation(500)
    time = np.where(user >= 30, 500 + time, time)
    return user, item, time, random.normal(size=500).astype(np.float32)


def neighbours(rows: Log, own: Log | None = None) -> AsOfNeighbours:
    rule = TimeRule.blocks(log()[2], 4)
    keys = ProfileKeys.fit(*rows, num_users=USERS, num_items=ITEMS, rule=rule, size=8)
    found = AsOfNeighbours(
        USERS,
        ITEMS,
        rule,
        [ExactSelector("cosine") for _ in range(rule.snapshots)],
        ProfileKeys.empty(),
        PairLog.empty(ITEMS),
        look_alikes=COUNT,
        recall_items=2,
    )
    found.take(keys, PairLog.of(*(own or rows), num_items=ITEMS))
    found.refresh(keys, CataloguePools(*rows[:3], rule), (ExactSelector(), ExactSelector()))
    return found


def queries(rows: Log) -> Query:
    """One for each event, its history the latest events of its user strictly before."""
    user, item, time, _ = rows
    history = np.zeros((len(user), LENGTH), dtype=np.int64)
    for row in range(len(user)):
        before = np.flatnonzero((user == user[row]) & (time < time[row]))
        before = item[before[np.argsort(time[before])]][-LENGTH:]
        if len(before):
            history[row, -len(before) :] = before
    parts = (torch.from_numpy(np.asarray(column).astype(np.int64)) for column in (history, time))
    return Query(torch.from_numpy(user), torch.arange(len(user)), *parts)


def asked(found: AsOfNeighbours, query: Query) -> torch.Tensor:
    return found.of_queries(found.rule.snapshot(query.time, query.user), query)


def test_against_a_plain_loop() -> None:
    rows = log()
    found, query = neighbours(rows), queries(rows)
    user, _, time, _ = rows
    given, snapshots = asked(found, query), found.rule.snapshot(query.time, query.user).tolist()
    keys, late = found.keys, 0
    for row in range(0, 500, 7):
        snapshot, known = snapshots[row], []
        said = {int(i): float(v) for u, i, t, v in zip(*rows, strict=True) if u == user[row] and t < time[row]}
        vectors = keys.item_vectors[snapshot]
        known = [i for i in query.history[row].tolist() if i and vectors[i, 0].any()]
        if not known:
            assert not given[row].any()
            continue
        met = torch.stack([vectors[i, 0] for i in known]).mean(0) - keys.centres[snapshot]
        liked = sum((said[i] * vectors[i, 1] for i in known), torch.zeros(8))
        own = torch.cat([torch.nn.functional.normalize(one, dim=0) for one in (met, liked)])
        edge = int(found.rule.edges[snapshot - 1])
        pool = sorted({int(u) for u, t in zip(user, time, strict=True) if t < edge} - {int(user[row])})
        scores = {one: float(torch.cosine_similarity(own, keys.users(snapshot)[one], dim=0)) for one in pool}
        best = sorted(scores, key=lambda one: -scores[one])[:COUNT]
        assert given[row, : len(best)].tolist() == best
        late += int(user[row] >= 30 and len(best) > 0)
    assert late, "some who came late were asked about"


def test_a_table_knows_none_of_those_who_came_since() -> None:
    rows = log()
    found, query = neighbours(rows), queries(rows)
    newcomers = (query.user >= 30) & (query.history > 0).any(1) & (query.time < int(found.rule.edges[-2]))
    assert newcomers.any()
    snapshot = found.rule.snapshot(query.time, query.user)
    assert not found.keys.user_vectors[snapshot[newcomers], query.user[newcomers]].any()
    assert (asked(found, query)[newcomers] > 0).any(1).all()


def test_nobody_before_the_first_block_and_without_a_history() -> None:
    rows = log()
    found, query = neighbours(rows), queries(rows)
    first = query.time < int(found.rule.edges[0])
    assert first.any()
    assert not asked(found, query)[first].any()
    assert not asked(found, replace(query, history=torch.zeros_like(query.history))).any()


def test_one_person_alone_is_nobodys_look_alike() -> None:
    """The mean of a pool of one is taken off it: nothing is left to be compared."""
    user, item = np.array([2, 2, 2, 3, 3, 3, 4, 4]), np.array([2, 3, 4, 2, 3, 5, 2, 4])
    rows = (user, item, np.arange(8), np.zeros(8, dtype=np.float32))
    rule = TimeRule(Rule.BLOCKS, torch.tensor([3, 8]))
    keys = ProfileKeys.fit(*rows, num_users=USERS, num_items=ITEMS, rule=rule, size=8)
    own, selectors = PairLog.of(*rows, num_items=ITEMS), [ExactSelector("cosine") for _ in range(rule.snapshots)]
    found = AsOfNeighbours(USERS, ITEMS, rule, selectors, keys, own, look_alikes=COUNT)
    found.refresh(keys, CataloguePools(*rows[:3], rule), (ExactSelector(), ExactSelector()))
    assert not keys.users(1)[2].any()
    query = queries(rows)
    assert not asked(found, query).any()
    later = replace(query, time=query.time + 8)
    assert asked(found, later)[5].any()


@pytest.mark.parametrize("moment", [300, 620])
def test_the_row_itself_and_what_comes_later_change_nothing(moment: int) -> None:
    """Labels from a moment on, the row's own among them, are flipped, where keys and histories could read them."""
    rows = log()
    value = np.where(rows[2] >= moment, -rows[3] - 1.0, rows[3]).astype(np.float32)
    one, other = neighbours(rows), neighbours((*rows[:3], value))
    query = queries(rows)
    until = query.time <= moment
    assert torch.equal(asked(one, query)[until], asked(other, query)[until])
    assert not torch.equal(asked(one, query), asked(other, query)), "later rows do see them"
