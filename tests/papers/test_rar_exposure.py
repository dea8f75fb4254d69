"""RAR, section 3: pairs of the log as of a time, against loops; and the rules that say which snapshot is seen."""

import numpy as np
import pytest
import torch

from corral.rar.exposure import PairLog
from corral.rar.time_rules import Rule, TimeRule


def log(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """80 events of 5 users and 6 items at few times: many repeats and ties."""
    random = np.random.default_rng(seed)
    columns = (random.integers(2, 7, 80), random.integers(2, 8, 80), random.integers(0, 12, 80))
    return *columns, random.normal(size=80).astype(np.float32)


def test_looks_pairs_up_strictly_before_a_time() -> None:
    user, item, time, value = log()
    known = PairLog.of(user, item, time, value, num_items=8)
    users, items, times = torch.arange(0, 8)[:, None, None], torch.arange(0, 8)[:, None], torch.arange(-1, 14)
    found, values = known.before(users, items, times)
    assert found.shape == (8, 8, 15)
    for u in range(8):
        for i in range(8):
            for at, t in enumerate(range(-1, 14)):
                earlier = np.flatnonzero((user == u) & (item == i) & (time < t))
                assert bool(found[u, i, at]) == bool(len(earlier))
                if len(earlier):
                    latest = time[earlier].max()
                    assert float(values[u, i, at]) in value[earlier][time[earlier] == latest]
                else:
                    assert values[u, i, at] == 0.0


def test_later_events_change_nothing() -> None:
    user, item, time, value = log(1)
    full = PairLog.of(user, item, time, value, num_items=8)
    early = PairLog.of(*(column[time < 6] for column in (user, item, time, value)), num_items=8)
    asked = (torch.arange(8)[:, None], torch.arange(8), torch.tensor([[6]]))
    for a, b in zip(full.before(*asked), early.before(*asked), strict=True):
        torch.testing.assert_close(a, b)


def test_an_empty_log_knows_nothing_and_takes_a_saved_one() -> None:
    empty, known = PairLog.empty(8), PairLog.of(*log(), num_items=8)
    asked = (torch.arange(8)[:, None], torch.arange(8), torch.tensor([[9]]))
    assert not empty.before(*asked)[0].any()
    empty.load_state_dict(known.state_dict())
    torch.testing.assert_close(empty.before(*asked)[1], known.before(*asked)[1])


def test_blocks_hold_about_equal_numbers_of_events_and_see_earlier_ones_alone() -> None:
    times = np.repeat(np.arange(100, 200), 3)
    rule = TimeRule.blocks(times, 4)
    assert rule.snapshots == 5
    nobody = np.zeros(len(times), dtype=np.int64)
    snapshot = rule.snapshot(torch.from_numpy(times), torch.from_numpy(nobody)).numpy()
    assert np.bincount(snapshot).tolist() == [75, 75, 75, 75]
    for block in range(4):
        assert rule.holds(block, nobody, times).tolist() == (snapshot < block).tolist()
    after = torch.tensor([200, 10**9])
    assert rule.snapshot(after, after * 0).tolist() == [4, 4]
    assert rule.holds(4, nobody, times).all()
    at = torch.tensor([100, 130, 199, 500])
    assert rule.exposure_time(at).tolist() == [torch.iinfo(torch.int64).min, 125, 175, 200]


def test_events_of_one_time_share_a_block() -> None:
    assert TimeRule.blocks(np.array([1, 1, 2, 2, 2, 2, 3, 4]), 2).edges.tolist() == [2, 5]
    assert TimeRule.blocks(np.arange(8), 2).edges.tolist() == [4, 8]
    with pytest.raises(ValueError, match="distinct times"):
        TimeRule.blocks(np.array([1, 1, 1, 1, 1, 2]), 2)


def test_too_many_blocks_for_the_times_are_refused() -> None:
    with pytest.raises(ValueError, match="distinct times"):
        TimeRule.blocks(np.array([5, 5, 5, 6]), 3)
    with pytest.raises(ValueError, match="no train events"):
        TimeRule.blocks(np.array([]), 2)


def test_static_sees_everything_always() -> None:
    rule = TimeRule.static()
    assert (rule.rule, rule.snapshots) == (Rule.STATIC, 1)
    assert rule.holds(0, np.array([2, 3]), np.array([5, 99])).all()
    assert rule.snapshot(torch.tensor([0, 99]), torch.tensor([2, 3])).tolist() == [0, 0]
    assert (rule.exposure_time(torch.tensor([0, 99])) == torch.iinfo(torch.int64).max).all()


def test_folds_show_a_train_event_the_other_folds_alone() -> None:
    users, times = np.repeat(np.arange(2, 42), 3), np.arange(120)
    rule = TimeRule.folds(42, 5, seed=1)
    assert rule.snapshots == 6
    assert rule.fold is not None
    assert np.bincount(rule.fold.numpy()).tolist() == [9, 9, 8, 8, 8]
    snapshot = rule.snapshot(torch.from_numpy(times), torch.from_numpy(users), learning=True).numpy()
    for user in range(2, 42):
        (seen,) = set(snapshot[users == user].tolist())
        held = set(users[rule.holds(seen, users, times)].tolist())
        assert held == {other for other in range(2, 42) if rule.fold[other] != rule.fold[user]}
    # Whatever is judged sees all of train, also between train events.
    assert rule.snapshot(torch.tensor([60, 120]), torch.tensor([7, 7])).tolist() == [5, 5]
    assert rule.holds(5, users, times).all()
    with pytest.raises(ValueError, match="folds=1"):
        TimeRule.folds(42, 1)


def test_finds_the_pairs_of_the_log_and_no_others() -> None:
    """Also where a pair's flag is set by another pair."""
    random = np.random.default_rng(2)
    user, item, time = random.integers(2, 200, 3000), random.integers(2, 256, 3000), random.integers(0, 50, 3000)
    known = PairLog.of(user, item, time, num_items=256)
    found, values = known.before(torch.arange(200)[:, None], torch.arange(256), torch.tensor([[25]]))
    expected = torch.zeros(200, 256, dtype=torch.bool)
    expected[user[time < 25], item[time < 25]] = True
    assert torch.equal(found, expected)
    assert torch.equal(values, expected.float())
    assert bool(known.flags.sum() < len(known.pairs))  # some share a flag
