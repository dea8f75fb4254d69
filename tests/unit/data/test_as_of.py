"""As-of statistics: equal to loops over the log, blind to their own row, to ties and to the future."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pytest
import torch
from small_logs import small_dataset
from torch import Tensor

from corral.data.as_of import AsOfRule, AsOfStatistics
from corral.data.examples import Examples
from corral.data.features import FeatureTable
from corral.data.running_sums import ONE, RunningSums, whole
from corral.data.split import Part, Split, given, leave_last_two_out, time_cut
from corral.data.vocabulary import Vocabulary

USERS, ITEMS, TIMES = 7, 9, 12
RECENT, WINDOW, SMOOTHING = 3, 0.25, 2.0


def features() -> FeatureTable:
    """Genres, some items without; a categorical shelf, some missing; a price and a title, which have no codes."""
    rows = range(ITEMS - 2)
    frame = pl.DataFrame(
        {
            "item_id": list(rows),
            "genres": [[f"g{code}" for code in range(5) if (row >> (code % 3)) % 2] for row in rows],
            "shelf": [None if row % 4 == 0 else f"s{row % 3}" for row in rows],
            "price": [float(row) for row in rows],
            "title": [f"item {row}" for row in rows],
        }
    )
    return FeatureTable.build(frame, "item_id", Vocabulary.of(frame["item_id"]), ["title"])


@dataclass(frozen=True)
class Log:
    """Events in any order, rows of users and items, with labels."""

    user: Tensor
    item: Tensor
    time: Tensor
    label: Tensor

    @classmethod
    def random(cls, seed: int, n: int = 120) -> Log:
        """Ties and repeats everywhere."""
        random = np.random.default_rng(seed)
        columns = (random.integers(2, USERS, n), random.integers(2, ITEMS, n), random.integers(0, TIMES, n))
        label = torch.from_numpy(random.integers(0, 2, n)).double()
        return cls(*(torch.from_numpy(column) for column in columns), label)

    def statistics(self, *, labelled: bool = True, table: FeatureTable | None = None) -> AsOfStatistics:
        return AsOfStatistics.of_log(
            self.user,
            self.item,
            self.time,
            self.label if labelled else None,
            features() if table is None else table,
            num_users=USERS,
            num_items=ITEMS,
            smoothing=SMOOTHING,
            recent=RECENT,
            window=WINDOW,
        )

    def where(self, keep: Tensor) -> Log:
        return Log(self.user[keep], self.item[keep], self.time[keep], self.label[keep])

    def rows(self) -> list[tuple[int, int, int, float]]:
        """By time, as they came."""
        columns = (self.user.tolist(), self.item.tolist(), self.time.tolist(), self.label.tolist())
        return sorted(zip(*columns, strict=True), key=lambda row: row[2])


def odds(rate: float) -> float:
    return math.log(rate / (1 - rate))


def loops(log: Log, user: int, item: int, time: int) -> dict[str, float]:
    """The definition, event by event, in double precision."""
    rows, table = log.rows(), features()

    def smoothed(labels: list[float], prior: float) -> float:
        return (sum(labels) + SMOOTHING * prior) / (len(labels) + SMOOTHING)

    def prior(at: int) -> float:
        labels = [y for _, _, t, y in rows if t < at]
        return (sum(labels) + 5) / (len(labels) + 10)

    def rate(column: int, entity: int, at: int) -> float:
        return smoothed([row[3] for row in rows if row[column] == entity and row[2] < at], prior(at))

    def mean(residuals: list[float]) -> float:
        return sum(residuals) / (len(residuals) + SMOOTHING)

    def since(times: list[int]) -> float:
        return math.log(1 + time - times[0]) if times else 0.0

    past = [row for row in rows if row[2] < time]
    of_user, of_item = [row for row in past if row[0] == user], [row for row in past if row[1] == item]
    judged = [(i, t, y - rate(1, i, t)) for _, i, t, y in of_user]
    user_rate, g = rate(0, user, time), prior(time)
    late = of_user[-RECENT:]
    # The latest quarter of the log, whole times only.
    opening = next((t for t in range(time + 1) if sum(r[2] < t for r in rows) >= len(past) - len(past) // 4), time)
    recent = [row for row in of_item if row[2] >= opening]
    found = {
        "user_count": math.log(1 + len(of_user)),
        "user_rate": odds(user_rate) - odds(g),
        "user_residual": mean([residual for _, _, residual in judged]),
        "user_recent_rate": odds(smoothed([row[3] for row in late], user_rate)) - odds(user_rate),
        "user_recent_residual": mean([residual for _, _, residual in judged[-RECENT:]]),
        "user_age": since([row[2] for row in of_user]),
        "user_idle": since([row[2] for row in of_user[::-1]]),
        "item_count": math.log(1 + len(of_item)),
        "item_rate": odds(rate(1, item, time)) - odds(g),
        "item_residual": mean([y - rate(0, u, t) for u, _, t, y in of_item]),
        "item_recent_count": math.log(1 + len(recent)),
        "item_recent_residual": mean([y - rate(0, u, t) for u, _, t, y in recent]),
        "item_age": since([row[2] for row in of_item]),
    }

    def values(name: str, row: int) -> list[int]:
        column = table.columns[name]
        if column.offsets is None:
            return [int(column.values[row])] if column.values[row] >= 2 else []
        return column.values[column.offsets[row] : column.offsets[row + 1]].tolist()

    for name in ("genres", "shelf"):
        met = [[r for i, _, r in judged if value in values(name, i)] for value in values(name, item)]
        counts, residuals = [math.log(1 + len(one)) for one in met], [mean(one) for one in met]
        for part, numbers in (("count", counts), ("residual", residuals)):
            found[f"{name}_{part}_mean"] = sum(numbers) / len(numbers) if numbers else 0.0
            found[f"{name}_{part}_max"] = max(numbers, default=0.0)
    return found


def everything(statistics: AsOfStatistics, times: list[int]) -> Tensor:
    """Of every user and item, rows 0 and 1 too, at each of the times: [times * users, items, E]."""
    user = torch.arange(USERS).repeat(len(times))
    time = torch.tensor(times).repeat_interleave(USERS)
    return statistics(user, torch.arange(ITEMS).expand(len(user), -1), time)


@pytest.mark.parametrize("seed", [0, 1])
def test_equal_to_loops(seed: int) -> None:
    log = Log.random(seed, n=60)
    statistics = log.statistics()
    times = [0, 5, 11, 1000]
    found = everything(statistics, times)
    assert found.dtype == torch.float32
    assert statistics.size == len(statistics.names) == len(set(statistics.names)) == 21
    at = 0
    for time in times:
        for user in range(USERS):
            for item in range(ITEMS):
                wanted = loops(log, user, item, time)
                assert tuple(wanted) == statistics.names
                torch.testing.assert_close(found[at, item], torch.tensor(list(wanted.values())), rtol=1e-4, atol=2e-5)
            at += 1


def test_without_labels_they_are_counts_and_times() -> None:
    log = Log.random(2)
    counted, rated = log.statistics(labelled=False), log.statistics()
    assert counted.names == tuple(name for name in rated.names if not ("rate" in name or "residual" in name))
    columns = [rated.names.index(name) for name in counted.names]
    times = [0, 3, 12]
    torch.testing.assert_close(everything(counted, times), everything(rated, times)[..., columns], rtol=0, atol=0)


def test_codes_looked_up_one_by_one_or_all() -> None:
    """Few items of a query or many: another way through the same table."""
    statistics = Log.random(3).statistics()
    user, time = torch.tensor([2, 3, 4]), torch.tensor([5, 9, 12])
    items = torch.arange(ITEMS).expand(3, -1)
    one_by_one = torch.cat([statistics(user, one, time) for one in items.split(1, dim=1)], 1)
    torch.testing.assert_close(one_by_one, statistics(user, items, time))


def test_a_value_named_twice_counts_its_events_once() -> None:
    names = pl.Series("item_id", range(ITEMS - 2))
    once, twice = (
        FeatureTable.build(pl.DataFrame({"item_id": names, "tags": tags}), "item_id", Vocabulary.of(names))
        for tags in (
            [[f"t{row % 2}", "all"] for row in range(ITEMS - 2)],
            [[f"t{row % 2}", "all", f"t{row % 2}"] for row in range(ITEMS - 2)],
        )
    )
    log, times = Log.random(4), list(range(TIMES + 1))
    found, expected = (everything(log.statistics(table=table), times) for table in (twice, once))
    torch.testing.assert_close(found, expected)


def test_strictly_before() -> None:
    """Two events at time 5: neither is known at 5, both are at 6."""
    log = Log(torch.tensor([2, 2]), torch.tensor([3, 3]), torch.tensor([5, 5]), torch.tensor([1.0, 1.0]))
    statistics = log.statistics()
    asked = statistics(torch.tensor([2, 2, 2]), torch.tensor([[3]] * 3), torch.tensor([4, 5, 6]))[:, 0]
    count = [statistics.names.index(name) for name in ("user_count", "item_count")]
    assert float(asked[:2].abs().sum()) == 0.0
    torch.testing.assert_close(asked[2, count], torch.tensor([3.0, 3.0]).log())


@pytest.mark.parametrize("change", ["label", "item", "user", "gone"])
def test_the_future_changes_nothing(change: str) -> None:
    """What happens at a time or after it is not known at that time, bit for bit."""
    log, random = Log.random(4), np.random.default_rng(9)
    cut = 6
    future = log.time >= cut
    other = {
        "label": replace(log, label=torch.where(future, 1 - log.label, log.label)),
        "item": replace(log, item=torch.where(future, (log.item - 2 + 3) % (ITEMS - 2) + 2, log.item)),
        "user": replace(log, user=torch.where(future, torch.from_numpy(random.integers(2, USERS, 120)), log.user)),
        "gone": log.where(~future),
    }[change]
    times = list(range(cut + 1))
    before, after = everything(log.statistics(), times), everything(other.statistics(), times)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    later = [cut + 1, TIMES]
    assert not torch.equal(everything(other.statistics(), later), everything(log.statistics(), later)), "no test"


def test_a_row_does_not_know_its_own_label() -> None:
    log = Log.random(5, n=40)
    before = log.statistics()(log.user, log.item[:, None], log.time)[:, 0]
    seen_by_others = 0
    for row in range(len(log.user)):
        label = log.label.clone()
        label[row] = 1 - label[row]
        after = replace(log, label=label).statistics()(log.user, log.item[:, None], log.time)[:, 0]
        same_time_or_earlier = log.time <= log.time[row]
        torch.testing.assert_close(after[same_time_or_earlier], before[same_time_or_earlier], rtol=0, atol=0)
        seen_by_others += int((after != before).any())
    assert seen_by_others > 20, "the test would not see a leak"


def test_the_order_of_the_log_does_not_matter() -> None:
    """Bit for bit: sums are of whole numbers. Among equal times the log's order says which is the latest."""
    log = Log.random(6)
    times = torch.from_numpy(np.random.default_rng(1).permutation(len(log.user)))
    log = replace(log, time=times)
    shuffled = log.where(torch.from_numpy(np.random.default_rng(0).permutation(len(log.user))))
    asked = [0, 17, 60, 200]
    torch.testing.assert_close(
        everything(shuffled.statistics(), asked), everything(log.statistics(), asked), rtol=0, atol=0
    )


def test_rates_stay_finite_where_everything_is_a_click() -> None:
    count = 40_000_000
    sums = torch.tensor([[0, 0], [count, count * ONE]])
    statistics = Log.random(0).statistics()
    one = AsOfStatistics(
        torch.tensor([3]), sums, statistics.users, statistics.items, [], labelled=True, smoothing=SMOOTHING
    )
    assert bool(one(torch.tensor([1]), torch.tensor([[2, 0]]), torch.tensor([9])).isfinite().all())


def test_an_empty_log_and_rows_that_nothing_is_known_of() -> None:
    for labelled in (True, False):
        nothing = Log.random(0).where(torch.zeros(120, dtype=torch.bool)).statistics(labelled=labelled)
        assert float(everything(nothing, [0, 5]).abs().sum()) == 0.0
    statistics = Log.random(1).statistics()
    unknown = statistics(torch.tensor([0, 1]), torch.tensor([[0, 1]] * 2), torch.tensor([99, 99]))
    assert float(unknown.abs().sum()) == 0.0


def test_labels_must_be_rates() -> None:
    log = Log.random(0)
    with pytest.raises(ValueError, match="must be in"):
        replace(log, label=log.label * 3).statistics()


@pytest.mark.parametrize("labelled", [True, False])
def test_saved_into_an_empty_one(labelled: bool) -> None:
    statistics = Log.random(7).statistics(labelled=labelled)
    empty = AsOfStatistics.empty(features(), **statistics.sizes, smoothing=SMOOTHING, recent=RECENT, window=WINDOW)
    assert empty.names == statistics.names
    empty.load_state_dict(statistics.state_dict())
    times = [0, 4, 12]
    torch.testing.assert_close(everything(empty, times), everything(statistics, times), rtol=0, atol=0)
    # The items' categories are the feature table's.
    assert not [name for name in statistics.state_dict() if "codes" in name]


def test_a_longer_catalogue() -> None:
    """Two new items, before and after the known ones, as if they had always been there."""
    log = Log.random(8)
    moved = torch.tensor([0, 1, *range(3, ITEMS + 1)])
    # Row r of the old table is row r + 1 of the new one, with the same codes.
    frame = pl.DataFrame({"item_id": [-1, *range(ITEMS - 2), 99]}).with_columns(
        genres=pl.Series([["g1"], *[[f"g{c}" for c in range(5) if (r >> (c % 3)) % 2] for r in range(ITEMS - 2)], []]),
        shelf=pl.Series(["s2", *[None if r % 4 == 0 else f"s{r % 3}" for r in range(ITEMS - 2)], None]),
    )
    longer = FeatureTable.build(frame, "item_id", Vocabulary.of(frame["item_id"]))
    found = log.statistics().renumbered(moved, longer)
    wanted = AsOfStatistics.of_log(
        log.user,
        moved[log.item],
        log.time,
        log.label,
        longer,
        num_users=USERS,
        num_items=ITEMS + 2,
        smoothing=SMOOTHING,
        recent=RECENT,
        window=WINDOW,
    )
    assert found.sizes == wanted.sizes
    user, items = torch.tensor([2, 3, 4]), torch.arange(ITEMS + 2).expand(3, -1)
    time = torch.tensor([5, 9, 12])
    torch.testing.assert_close(found(user, items, time), wanted(user, items, time), rtol=0, atol=0)
    names = found.names
    new = found(user, torch.tensor([[2]] * 3), time)[:, 0]
    assert float(new[:, [names.index(n) for n in names if n.startswith("item_c")]].abs().sum()) == 0.0
    assert float(new[:, names.index("genres_count_mean")].abs().sum()) > 0, "its genre is known"


SPLITS: dict[str, Callable[..., Split]] = {
    "time-cut": lambda data: time_cut(data, valid_from=6, test_from=9),
    "leave-last-two-out": leave_last_two_out,
    "given": given,
}


@pytest.mark.parametrize("rule", SPLITS)
def test_which_events_a_rule_looks_up(rule: str) -> None:
    random = np.random.default_rng(3)
    columns = (random.integers(0, high, 90).tolist() for high in (5, 7, TIMES, 3))
    dataset = small_dataset(list(zip(*columns, strict=True)))
    split = SPLITS[rule](dataset)
    assert AsOfRule.of(split) is (AsOfRule.STREAMING if rule == "time-cut" else AsOfRule.TRAIN)
    log, labels = dataset.events, (np.arange(90) % 3 == 0).astype(np.float32)
    user, items = torch.arange(dataset.n_users), torch.arange(dataset.n_items).expand(dataset.n_users, -1)
    for which, keep in ((AsOfRule.STREAMING, split.part >= 0), (AsOfRule.TRAIN, split.part == Part.TRAIN)):
        found = AsOfStatistics.of(dataset, split, which, labels=labels)
        rows = [
            torch.from_numpy(np.asarray(column[keep]).astype(np.int64)) for column in (log.user, log.item, log.time)
        ]
        wanted = AsOfStatistics.of_log(
            *rows,
            torch.from_numpy(labels[keep]),
            dataset.item_features,
            num_users=dataset.n_users,
            num_items=dataset.n_items,
        )
        names = [name for name in found.names if "user_recent" not in name]  # ties: whose order is the parts'
        columns_ = [found.names.index(name) for name in names]
        for time in (0, 4, 7, 13):
            at = torch.full_like(user, time)
            torch.testing.assert_close(
                found(user, items, at)[..., columns_], wanted(user, items, at)[..., columns_], rtol=0, atol=0
            )


def test_the_train_rule_does_not_know_other_parts() -> None:
    """Other labels of validation and test events: the same statistics of every event, bit for bit."""
    random = np.random.default_rng(3)
    columns = (random.integers(0, high, 90).tolist() for high in (5, 7, TIMES, 3))
    dataset = small_dataset(list(zip(*columns, strict=True)))
    split, labels = given(dataset), random.integers(0, 2, 90).astype(np.float32)
    other = np.where(split.part == Part.TRAIN, labels, 1 - labels)
    log = dataset.events
    user, item, time = (torch.from_numpy(np.asarray(c).astype(np.int64)) for c in (log.user, log.item, log.time))

    def inputs(labels: np.ndarray, rule: AsOfRule) -> Tensor:
        return AsOfStatistics.of(dataset, split, rule, labels=labels)(user, item[:, None], time)

    torch.testing.assert_close(inputs(other, AsOfRule.TRAIN), inputs(labels, AsOfRule.TRAIN), rtol=0, atol=0)
    assert not torch.equal(inputs(other, AsOfRule.STREAMING), inputs(labels, AsOfRule.STREAMING))


def test_impressions_are_events_with_label_0() -> None:
    clicks = [(0, 0, 1, 0), (0, 1, 3, 0), (1, 0, 4, 0), (1, 1, 7, 1), (0, 2, 9, 2)]
    shown = [(0, 2, 1, 0), (1, 1, 3, 0), (1, 2, 8, 1)]
    dataset = small_dataset(clicks, shown=shown)
    split = time_cut(dataset, valid_from=6, test_from=9)
    counted = AsOfStatistics.of(dataset, split, AsOfRule.STREAMING)
    assert not counted.labelled
    assert counted.sizes["events"] == 5
    rated = AsOfStatistics.of(dataset, split, AsOfRule.STREAMING, impressions=True)
    assert rated.labelled
    assert rated.sizes["events"] == 8
    assert AsOfStatistics.of(dataset, split, AsOfRule.TRAIN, impressions=True).sizes["events"] == 5
    # User 0 (row 2) before time 3: one click, one impression; everybody: the same.
    answer = rated(torch.tensor([2]), torch.tensor([[2]]), torch.tensor([3]))[0, 0]
    assert answer[rated.names.index("user_count")] == pytest.approx(math.log(3))
    assert answer[rated.names.index("user_rate")] == pytest.approx(0.0, abs=1e-6)


def test_examples_are_asked_at_their_own_time() -> None:
    """The statistics of a train example are those of the log before it: the loader's query says when."""
    random = np.random.default_rng(3)
    columns = (random.integers(0, high, 60).tolist() for high in (4, 5, 30, 3))
    dataset = small_dataset(list(zip(*columns, strict=True)))
    split = time_cut(dataset, valid_from=15, test_from=22)
    statistics = AsOfStatistics.of(dataset, split, AsOfRule.STREAMING)
    batch = Examples.of(dataset, split, Part.TRAIN).batch(np.arange(10), 5)
    found = statistics(batch.query.user, batch.item[:, None], batch.query.time)[:, 0]
    log = dataset.events
    for row in range(10):
        past = log.time < int(batch.query.time[row])
        count = int((past & (log.user == int(batch.query.user[row]))).sum())
        assert float(found[row, statistics.names.index("user_count")]) == pytest.approx(math.log(1 + count))


def test_running_sums_refuse_what_does_not_fit() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="63 bits"):
        RunningSums(none, none, none.view(0, 0), num_entities=2**32, num_moments=2**31)


def test_running_sums_are_exact_where_floats_are_not() -> None:
    """As if 2^32 clicks of others had come before: a third of a click is not lost."""
    n = 1 << 20
    entity = torch.cat([torch.zeros(n), torch.ones(1)]).long()
    sums = RunningSums(
        entity, torch.zeros(n + 1).long(), whole(torch.full((n + 1, 1), 1 / 3)), num_entities=2, num_moments=2
    )
    sums.sums[1:] += ONE << 32
    first, stop = sums.before(torch.tensor([1]), torch.tensor([1]))
    assert float(sums.total(first, stop)) == pytest.approx(1 / 3, abs=1e-7)
