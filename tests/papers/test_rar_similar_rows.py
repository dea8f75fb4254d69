"""Similar rows with labels: the search and its five numbers against loops, and that nothing leaks."""

import math

import numpy as np
import pytest
import torch
from event_logs import LENGTH, Columns, another_future, queries
from torch.nn import functional

from corral.data.batches import Query
from corral.data.features import FeatureTable
from corral.rar.exposure import PairLog
from corral.rar.item_log import ItemLog
from corral.rar.neighbours import CataloguePools, Neighbours
from corral.rar.profile_keys import ProfileKeys
from corral.rar.residuals import residuals
from corral.rar.selection import ExactSelector
from corral.rar.similar_rows import SimilarRowsEvidence
from corral.rar.time_rules import TimeRule

USERS, ITEMS, NEAR, PEOPLE, UNTIL = 14, 11, 2, 4, 60


def events(seed: int = 0) -> Columns:
    """User, item, time and label of 100 events, some at one time; no pair twice, so that no two rows score alike."""
    random = np.random.default_rng(seed)
    user, item = np.divmod(random.permutation((USERS - 2) * (ITEMS - 2))[:100], ITEMS - 2)
    return user + 2, item + 2, random.integers(0, 90, 100), (random.random(100) < 0.5).astype(np.float64)


def evidence(log: Columns, near: int = NEAR, **options: float) -> SimilarRowsEvidence:
    """Rows of events before ``UNTIL``; profiles from the whole log."""
    user, item, time, label = log
    value = residuals(user, time, label)
    train = time < UNTIL
    rule = TimeRule.blocks(time[train], 3)
    rows = [column[train] for column in (user, item, time, value)]
    keys = ProfileKeys.fit(*rows, num_users=USERS, num_items=ITEMS, rule=rule, size=4)
    people = ItemLog.of(*rows, num_items=ITEMS, rule=rule)
    own = PairLog.of(user, item, time, value, num_items=ITEMS)
    neighbours = Neighbours(USERS, ITEMS, rule, look_alikes=0, recall_items=near)
    neighbours.refresh(keys, CataloguePools(*rows[:3], rule), (ExactSelector("cosine"), ExactSelector("cosine")))
    keywords = {"count": 6, "people_per_item": PEOPLE, "history_length": LENGTH, **options}
    return SimilarRowsEvidence(keys, people, own, neighbours, **keywords).double()  # type: ignore[arg-type]


def by_hand(model: SimilarRowsEvidence, log: Columns, row: int, item: int) -> list[float]:
    """One event and one candidate, row by row."""
    user, items, time, label = log
    value = residuals(user, time, label)
    snapshot = int(model.near.rule.snapshot(torch.tensor([int(time[row])]), torch.tensor([int(user[row])])))
    until = int(model.near.rule.edges[snapshot - 1]) if snapshot else -1
    vectors, people = model.keys.item_vectors[snapshot], model.keys.user_vectors[snapshot]
    history = [int(i) for i in queries(log, np.array([row])).history[0] if i]
    said = []
    for past in history:
        seen = np.flatnonzero((user == user[row]) & (items == past) & (time < time[row]))
        said.append(float(value[seen[np.argsort(time[seen], kind="stable")][-1]]))
    met = liked = torch.zeros(4).double()
    if history:
        met = functional.normalize(vectors[history, 0].mean(0) - model.keys.centres[snapshot], dim=0)
        liked = functional.normalize(torch.tensor(said).double() @ vectors[history, 1], dim=0)
    candidates = []
    for other in (item, *(int(i) for i in model.near.i2i[snapshot, item] if i)):
        rows = np.flatnonzero((items == other) & (time < min(until, UNTIL)))
        alike = 1.0
        if other != item:
            a, b = (
                torch.cat([functional.normalize(vectors[i, kind], dim=0) for kind in range(2)]) for i in (item, other)
            )
            alike = float(functional.cosine_similarity(a, b, dim=0))
        for one in rows[np.argsort(time[rows], kind="stable")][-PEOPLE:]:
            score = float(met @ people[user[one], 0]) + float(liked @ people[user[one], 1]) + alike
            candidates.append((score, float(value[one])))
    best = sorted(candidates, reverse=True)[:6]
    weights = [math.exp(1.5 * score) for score, _ in best]
    return [
        4 * sum(v for _, v in best) / (len(best) + 3.0),
        4 * sum(w * v for w, (_, v) in zip(weights, best, strict=True)) / (sum(weights) + 3.0),
        math.log1p(len(best)) / 4,
        sum(s for s, _ in best) / max(len(best), 1) / 3,
        max([s for s, _ in best], default=0.0) / 3,
    ]


def test_matches_the_search_row_by_row() -> None:
    log = events(3)
    model = evidence(log, temperature=1.5)
    rows = np.flatnonzero((log[2] > 20) & (log[2] < 75))[:12]
    candidates = torch.tensor([[2, 5, 9]] * len(rows))
    found = model(queries(log, rows), candidates)
    assert found.shape == (12, 3, model.size)
    full = 0
    for number, row in enumerate(rows):
        for place, item in enumerate((2, 5, 9)):
            expected = by_hand(model, log, int(row), item)
            full += expected[2] == math.log1p(6) / 4
            torch.testing.assert_close(found[number, place], torch.tensor(expected).double(), rtol=2e-4, atol=2e-5)
    assert 5 < full < 36  # in some there is a choice to make, in some there are too few rows


def test_the_future_and_the_rows_own_label_change_nothing() -> None:
    log = events(4)
    _, item, time, _ = log
    rows = np.flatnonzero((time > 25) & (time < 50))
    before = evidence(log)(queries(log, rows), torch.from_numpy(item[rows])[:, None])
    assert before.any()
    for row in rows[:12]:
        changed = another_future(log, int(row))
        at = rows == row
        after = evidence(changed)(queries(log, rows[at]), torch.from_numpy(item[rows[at]])[:, None])
        torch.testing.assert_close(after, before[torch.from_numpy(at)])


def test_rows_of_the_user_itself_are_found() -> None:
    """Two users alike in nothing but that one is asked: its own earlier row of the item is the most similar."""
    user = np.array([2, 2, 2, 3, 3, 3, 4, 4, 4] * 4)
    item = np.array([2, 3, 4, 5, 6, 7, 8, 9, 2] * 4)
    time = np.repeat(np.arange(4), 9) * 10
    label = np.array([1, 0, 1, 0, 1, 0, 0, 1, 0] * 4, dtype=np.float64)
    log = (user, item, time, label)
    model = evidence(log, near=0, count=1)
    asked = queries(log, np.array([27]))  # user 2's last event of item 2: liked each time, user 4 never does
    assert model(asked, torch.tensor([[2]]))[0, 0, 0] > 0


def test_first_block_unknown_people_and_padding_have_nothing() -> None:
    log = events(5)
    model = evidence(log)
    row = np.array([int(np.argmin(log[2]))])
    assert not model(queries(log, row), torch.tensor([[4, 7]])).any()
    nobody = Query(torch.tensor([1]), torch.tensor([-1]), torch.zeros(1, 0).long(), torch.tensor([10**6]))
    found = model(nobody, torch.arange(ITEMS)[None])
    assert torch.isfinite(found).all()
    assert not found[0, 0].any()


def test_a_number_depends_on_its_own_item_alone() -> None:
    log = events(6)
    model, rows = evidence(log), np.arange(60, 90)
    items = torch.randint(2, ITEMS, (30, 4), generator=torch.Generator().manual_seed(0))
    alone = torch.cat([model(queries(log, rows), items[:, n : n + 1]) for n in range(4)], 1)
    torch.testing.assert_close(model(queries(log, rows), items), alone)


def test_nothing_of_it_is_learned() -> None:
    log = events(7)
    model, rows = evidence(log), np.arange(60, 100)
    assert not list(model.parameters())
    assert not model(queries(log, rows), torch.from_numpy(log[1][rows])[:, None]).requires_grad


def test_wrong_rules_and_sizes_are_refused() -> None:
    model = evidence(events())
    static = Neighbours(USERS, ITEMS, TimeRule.static(), look_alikes=0, recall_items=1)
    with pytest.raises(ValueError, match="rule=static"):
        SimilarRowsEvidence(model.keys, model.people, model.own, static)
    with pytest.raises(ValueError, match="count=0"):
        SimilarRowsEvidence(model.keys, model.people, model.own, model.near, count=0)


def test_a_saved_one_is_loaded_without_the_data() -> None:
    log = events(8)
    model, rows = evidence(log), np.arange(50, 100)
    near = Neighbours(USERS, ITEMS, model.near.rule, look_alikes=0, recall_items=NEAR)
    empty = SimilarRowsEvidence(
        ProfileKeys.empty(),
        ItemLog.empty(),
        PairLog.empty(ITEMS),
        near,
        count=6,
        people_per_item=PEOPLE,
        history_length=LENGTH,
    ).double()
    empty.load_state_dict(model.state_dict())
    asked, items = queries(log, rows), torch.from_numpy(log[1][rows])[:, None]
    torch.testing.assert_close(empty(asked, items), model(asked, items))


def test_a_longer_catalogue_changes_nothing_for_the_old_items() -> None:
    log = events(9)
    model, rows = evidence(log), np.arange(50, 100)
    asked, items = queries(log, rows), torch.from_numpy(log[1][rows])[:, None]
    before = model(asked, items)
    moved = torch.tensor([0, 1, *range(4, ITEMS + 2)])
    model.renumber(moved, FeatureTable(ITEMS + 2, {}))
    longer = Query(asked.user, asked.event, moved[asked.history], asked.time)
    torch.testing.assert_close(model(longer, moved[items]), before)
    assert not model(longer, torch.full_like(items, 2)).any()
