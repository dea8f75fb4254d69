"""Negatives drawn as labelled examples: the exact distribution, what is left out, and what may not change them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from small_logs import Event, event_lists, small_dataset

from corral.data.dataset import Dataset
from corral.data.examples import Examples
from corral.data.sampled_negatives import _Log, with_sampled_negatives
from corral.data.split import Part, Split, leave_last_two_out, random_split, time_cut


def both(
    dataset: Dataset, split: Split, part: Part, k: int = 4, seed: int = 0, repeats: bool = False
) -> tuple[Examples, Examples]:
    """The examples of a part that could be negatives of it, and the same with negatives."""
    plain = Examples.of(dataset, split, part)
    more = with_sampled_negatives(plain, dataset, split, part, per_positive=k, repeats=repeats, seed=seed)
    return more.at(np.flatnonzero(more.event >= 0)), more


def all_train(dataset: Dataset) -> Split:
    """Every event is one to learn from."""
    part = np.zeros(len(dataset.events.item), dtype=np.uint8)
    return Split("by hand", part, leave_last_two_out(dataset).history_rule)


def log_of(dataset: Dataset, split: Split, repeats: bool = False) -> _Log:
    """What is drawn from."""
    return _Log.of(Examples.of(dataset, split, Part.TRAIN), dataset, split, repeats)


def shop(users: int = 60, items: int = 30, events: int = 900, seed: int = 1) -> list[Event]:
    """Events at distinct times, the lower an item the more of them."""
    random = np.random.default_rng(seed)
    item = (items * random.random(events) ** 2).astype(int)
    rows = zip(random.integers(0, users, events).tolist(), item.tolist(), range(events), [0] * events, strict=True)
    return list(rows)


@given(events=event_lists(min_size=2), tries=st.sampled_from([0, 1, 32]))
@settings(max_examples=60, deadline=None)
def test_draws_are_items_that_are_left_and_there_already(events: list[Event], tries: int) -> None:
    """Of every user, item and time: against a plain list of the train events that are left."""
    dataset = small_dataset(events)
    user, item, time = (
        np.asarray(column).astype(np.int64)
        for column in (dataset.events.user, dataset.events.item, dataset.events.time)
    )
    had = {row: set(item[user == row].tolist()) for row in range(dataset.n_users)}
    moments = sorted({*time.tolist(), int(time.max()) + 1})
    asked = [(one, at) for one in range(1, dataset.n_users) for at in moments]  # row 1: unknown, had nothing
    users, times = (np.array(column, dtype=np.int64) for column in zip(*asked, strict=True))
    ends = np.zeros_like(users)  # nobody has a history yet
    for repeats in (False, True):
        log = log_of(dataset, all_train(dataset), repeats)
        drawn = log.draw(users, times, ends, 3, np.random.default_rng(0), tries)
        for (one, at), found in zip(asked, drawn.tolist(), strict=True):
            taken = set(item[(user == one) & (time >= at)].tolist()) if repeats else had[one]
            assert set(found) <= (set(item[time < at].tolist()) - taken or {0})


@pytest.mark.parametrize("tries", [0, 3, 32])
def test_shares_follow_the_events_before(tries: int) -> None:
    """Chi-square of the draws of one row against the counts as of its time, listed, tried, or tried and then listed."""
    random = np.random.default_rng(2)
    events: list[Event] = [(1 + at % 40, int(12 * random.random() ** 2) + at // 300, at, 0) for at in range(600)]
    events += [(0, item, 600 + item, 0) for item in range(5)]  # most of what is drawn is refused
    dataset = small_dataset(events)
    at, draws = 400, 20_000
    columns = (np.array([value], dtype=np.int64) for value in (int(dataset.users.rows([0])[0]), at, 0))
    drawn = log_of(dataset, all_train(dataset)).draw(*columns, draws, np.random.default_rng(3), tries)
    left = [item for _, item, time, _ in events if time < at and item not in (0, 1, 2, 3, 4)]
    expected = np.bincount(dataset.items.rows(left), minlength=dataset.n_items) * draws / len(left)
    seen = np.bincount(drawn[0], minlength=dataset.n_items)
    assert (seen[expected == 0] == 0).all()
    assert stats.chisquare(seen[expected > 0], expected[expected > 0]).pvalue > 0.001


def test_nothing_is_drawn_before_it_is_in_the_log() -> None:
    """A new item every tenth event: none is a negative of an earlier row, of any part."""
    random = np.random.default_rng(4)
    events: list[Event] = [(at % 80, int(random.integers(0, 1 + at // 10)), at, 0) for at in range(1_500)]
    dataset = small_dataset(events)
    split = time_cut(dataset, 0.1, 0.1)
    train = split.rows(Part.TRAIN)
    born = np.full(dataset.n_items, np.iinfo(np.int64).max)
    np.minimum.at(born, dataset.events.item[train], dataset.events.time[train])
    for part in Part:
        plain, more = both(dataset, split, part)
        assert (born[more.item[len(plain) :]] < more.time[len(plain) :]).all()


@pytest.mark.parametrize("piece", [1 << 20, 7], ids=["at once", "in pieces"])
def test_rows_are_the_positives_with_another_item(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corral.data.sampled_negatives._PIECE", piece)
    dataset = small_dataset(shop())
    split = time_cut(dataset, 0.2, 0.2)
    train = split.rows(Part.TRAIN)
    had = set(zip(dataset.events.user[train].tolist(), dataset.events.item[train].tolist(), strict=True))
    popular = split.train_counts(dataset)
    for part in Part:
        plain, more = both(dataset, split, part)
        n = len(plain)
        # A train row may have nothing before it that its user has not.
        assert len(more) == 5 * n if part != Part.TRAIN else 5 * n - 40 < len(more) <= 5 * n
        assert 0.3 < n / len(split.rows(part)) < 1
        for name in ("user", "item", "time", "event", "end", "label"):
            assert getattr(more, name)[:n].tolist() == getattr(plain, name).tolist()
            assert getattr(more, name).dtype == getattr(plain, name).dtype
        place = {time: at for at, time in enumerate(plain.time.tolist())}  # times are distinct
        source = np.array([place[time] for time in more.time[n:].tolist()])
        for name in ("user", "time", "end"):
            assert getattr(more, name)[n:].tolist() == getattr(plain, name)[source].tolist()
        assert (more.event[n:] == -1).all()
        assert (more.label[n:] == 0).all()
        negatives = list(zip(more.user[n:].tolist(), more.item[n:].tolist(), strict=True))
        assert not had & set(negatives), "a train positive of the user"
        assert (more.item[n:] != plain.item[source]).all(), "the row's own positive"
        assert (popular[more.item[n:]] > 0).all(), "an item without a train event"
        batch = more.batch(np.arange(len(more)), 5)
        assert batch.query.history[n:].tolist() == batch.query.history[source].tolist()


def test_shares_follow_the_train_counts() -> None:
    """Chi-square of the draws for one user, who had three items and takes three, against the counts of the others."""
    random = np.random.default_rng(0)
    items = [int(i) for i in (12 * random.random(600) ** 2)]
    events: list[Event] = [(1 + at % 50, item, at, 0) for at, item in enumerate(items)]
    events += [(0, item, 600 + at, 0) for at, item in enumerate((0, 4, 7))]
    events += [(1, 11, 695, 0), *((0, 1 + at, 700, 0) for at in range(3))]
    dataset = small_dataset(events)
    split = time_cut(dataset, valid_from=690, test_from=700)
    plain, more = both(dataset, split, Part.TEST, k=2_000)
    assert len(plain) == 3
    weights = split.train_counts(dataset).astype(float)
    weights[dataset.items.rows([0, 1, 2, 3, 4, 7])] = 0  # what he had, and what he takes in the test
    expected = 6_000 * weights / weights.sum()
    seen = np.bincount(more.item[len(plain) :], minlength=len(weights))
    assert (seen[expected == 0] == 0).all()
    assert stats.chisquare(seen[expected > 0], expected[expected > 0]).pvalue > 0.001


def test_seeds_and_parts_have_draws_of_their_own() -> None:
    dataset = small_dataset(shop())
    split = leave_last_two_out(dataset)
    drawn = {(part, seed): both(dataset, split, part, seed=seed)[1].item.tolist() for part in Part for seed in (0, 1)}
    again = {key: both(dataset, split, key[0], seed=key[1])[1].item.tolist() for key in drawn}
    assert drawn == again
    assert len({tuple(items[-200:]) for items in drawn.values()}) == 6


def test_what_comes_later_changes_nothing_before() -> None:
    """Without the test events, or with others, train and validation have the same negatives."""
    events = shop(events=600)
    late = [(user, 31 - item, time, part) for user, item, time, part in events if time >= 500]

    def named(rows: list[Event], part: Part) -> list[tuple[int, int, int]]:
        dataset = small_dataset(rows)
        split = time_cut(dataset, valid_from=400, test_from=500)
        examples = both(dataset, split, part)[1]
        users, items = dataset.users.external(examples.user), dataset.items.external(examples.item)
        return list(zip(users, items, examples.time.tolist(), strict=True))

    for others in ([(0, 31, 599, 0)], late):
        for part in (Part.TRAIN, Part.VALID):
            assert named(events, part) == named([row for row in events if row[2] < 500] + others, part)


def test_only_clicks_get_negatives_and_nobody_gets_what_is_not_there() -> None:
    everything: list[Event] = [(0, item, item, 0) for item in range(4)] + [(1, 0, 9, 0), (1, 1, 10, 0)]
    dataset = small_dataset(everything)
    split = all_train(dataset)
    label = np.array([1, 1, 0, 0, 1, 0], dtype=np.float32)
    examples = Examples.of(dataset, split, Part.TRAIN, label=label)
    more = with_sampled_negatives(examples, dataset, split, Part.TRAIN, per_positive=3)
    # User 0's clicks are the first events of their items; of user 1 one row is a click, and two items are left.
    assert more.label[:4].tolist() == [0, 0, 1, 0]
    assert Counter(more.user[4:].tolist()) == {3: 3}
    assert set(dataset.items.external(more.item[4:])) <= {2, 3}
    with pytest.raises(ValueError, match="per_positive=0"):
        with_sampled_negatives(examples, dataset, split, Part.TRAIN, per_positive=0)


def test_who_had_nearly_everything_or_everything_is_no_trouble() -> None:
    """User 0 had every item, user 1 all but one, user 2 one that train has nothing of."""
    events: list[Event] = [(0, item, item, 0) for item in range(6)] + [(1, item, 6 + item, 0) for item in range(5)]
    dataset = small_dataset([*events, (2, 9, 20, 0)])
    split = Split("by hand", np.array([0] * 11 + [2], dtype=np.uint8), leave_last_two_out(dataset).history_rule)
    users, log = dataset.users.rows([0, 1, 2]).astype(np.int64), log_of(dataset, split)
    assert log._nothing_left(users).tolist() == [True, False, False]
    drawn = log.draw(users, np.full(3, 30), np.zeros(3, dtype=np.int64), 2_000, np.random.default_rng(0))
    assert (drawn[0] == 0).all()
    assert (drawn[1] == dataset.items.rows([5])[0]).all()
    assert set(dataset.items.external(np.unique(drawn[2]))) == set(range(6))


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("rule", ["time-cut", "random"])
def test_no_input_is_the_label(rule: str, repeats: bool) -> None:
    """Whether the item is in the row's history, and whether train has had it: both labels have either answer, or none.

    Half of what is taken was had before, and new items come all the time.
    """
    random, events, past = np.random.default_rng(5), [], {}
    for at in range(4_000):
        mine = past.setdefault(int(random.integers(0, 50)), [])
        again = bool(mine) and random.random() < 0.5
        mine.append(mine[int(random.integers(len(mine)))] if again else int((10 + at // 50) * random.random() ** 2))
        events.append((next(user for user, some in past.items() if some is mine), mine[-1], at, 0))
    dataset = small_dataset(events)
    split = time_cut(dataset, 0.1, 0.1) if rule == "time-cut" else random_split(dataset, 0.1, 0.1)
    train = split.rows(Part.TRAIN)
    born = np.full(dataset.n_items, np.iinfo(np.int64).max)
    np.minimum.at(born, dataset.events.item[train], dataset.events.time[train])
    for part in Part:
        more = both(dataset, split, part, repeats=repeats)[1]
        assert (born[more.item] < more.time).all(), "of both labels"
        histories, start = more.histories.items, more.histories.offsets[more.user]
        inside = np.array([item in histories[a:b] for item, a, b in zip(more.item, start, more.end, strict=True)])
        shares = [inside[more.label == label].mean() for label in (0, 1)]
        if repeats:
            assert min(shares) > 0.05
        else:
            assert shares == [0, 0]


def test_a_part_without_rows() -> None:
    dataset = small_dataset([(0, 1, 1, 0), (0, 2, 2, 0)])
    split = leave_last_two_out(dataset)
    assert len(both(dataset, split, Part.TEST)[1]) == 0
