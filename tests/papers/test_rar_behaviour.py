"""``rar-plus``: profiles, residuals and the two observed lines of the matrix, against loops; and that nothing leaks."""

import math

import numpy as np
import pytest
import torch
from event_logs import LENGTH, Columns, another_future, queries
from torch.nn import functional

from corral.data.batches import Query
from corral.rar.behaviour import BehaviourEvidence
from corral.rar.exposure import PairLog
from corral.rar.item_log import ItemLog
from corral.rar.profile_keys import ProfileKeys, spectral_items
from corral.rar.residuals import residuals
from corral.rar.time_rules import TimeRule

USERS, ITEMS = 14, 11


def events(seed: int = 0) -> Columns:
    """User, item, time and label of 150 events, some at one time."""
    random = np.random.default_rng(seed)
    user, item = random.integers(2, USERS, 150), random.integers(2, ITEMS, 150)
    return user, item, random.integers(0, 90, 150), (random.random(150) < 0.5).astype(np.float64)


def evidence(log: Columns, *, until: int = 60, **options: object) -> BehaviourEvidence:
    """Trained on events before ``until``; own rows from the whole log."""
    user, item, time, label = log
    value = residuals(user, time, label)
    train = time < until
    rule = TimeRule.blocks(time[train], 3)
    rows = [column[train] for column in (user, item, time, value)]
    keys = ProfileKeys.fit(*rows, num_users=USERS, num_items=ITEMS, rule=rule, size=4)
    people = ItemLog.of(*rows, num_items=ITEMS, rule=rule)
    own = PairLog.of(user, item, time, value, num_items=ITEMS)
    return BehaviourEvidence(keys, people, own, rule, count=5, history_length=LENGTH, **options).double()  # type: ignore[arg-type]


def encode(model: BehaviourEvidence, snapshot: int, items: np.ndarray, values: np.ndarray) -> torch.Tensor:
    """Keys of one history."""
    vectors = model.keys.item_vectors[snapshot, torch.from_numpy(items)][None].unbind(2)
    present = torch.ones(1, len(items), dtype=torch.bool)
    return model.keys.encode(torch.tensor([snapshot]), present, vectors, torch.from_numpy(values)[None].double())


def test_residuals_take_the_users_earlier_rate_off() -> None:
    user, _, time, label = events()
    found = residuals(user, time, label, strength=2.0)
    for row in range(len(user)):
        all_before = time < time[row]
        prior = (label[all_before].sum() + 1) / (all_before.sum() + 2)
        own = all_before & (user == user[row])
        assert found[row] == pytest.approx(label[row] - (label[own].sum() + 2 * prior) / (own.sum() + 2), abs=1e-6)
    assert residuals(user, time, np.ones(len(user))).tolist() == [1.0] * len(user)


def test_spectral_items_rebuild_the_matrix_they_come_from() -> None:
    """V S^2 V^T = X^T X when no dimension is left out."""
    user, item, _, label = events(1)
    size = min(USERS, ITEMS) - 1
    vectors = spectral_items(user, item, (label - 0.5).astype(np.float32), USERS, ITEMS, size=size, seed=0)
    of_users, of_items = np.bincount(user, minlength=USERS), np.bincount(item, minlength=ITEMS)
    for kind, weight in enumerate(
        (1 / np.sqrt(of_users[user] * of_items[item]), (label - 0.5) / np.sqrt(of_items[item] + 5))
    ):
        matrix = np.zeros((USERS, ITEMS))
        np.add.at(matrix, (user, item), weight)
        np.testing.assert_allclose(vectors[:, kind] @ vectors[:, kind].T, matrix.T @ matrix, atol=1e-4)


def test_items_without_an_event_have_no_vector() -> None:
    user, item, _, label = events(1)
    kept = item != 5
    vectors = spectral_items(user[kept], item[kept], label[kept].astype(np.float32), USERS, ITEMS, size=4, seed=0)
    assert not vectors[[0, 1, 5]].any()
    assert np.abs(vectors[[2, 3, 4, 6]]).sum((1, 2)).all()


def test_query_keys_are_the_pools_keys_where_the_history_is_the_same() -> None:
    """A user all of whose events are before the edge, asked after it."""
    log = events(2)
    model = evidence(log, until=200)
    user, item, time, label = log
    value, snapshot = residuals(user, time, label), model.rule.snapshots - 1
    for who in range(2, USERS):
        own = np.flatnonzero(user == who)
        own = own[np.argsort(time[own], kind="stable")]
        if len(own) == 0:
            continue
        keys = encode(model, snapshot, item[own], value[own])
        torch.testing.assert_close(keys[0], model.keys.user_vectors[snapshot, who], rtol=1e-5, atol=1e-5)


def by_hand(model: BehaviourEvidence, log: Columns, row: int, item: int) -> list[float]:
    """The two lines for one event and one candidate, cell by cell."""
    user, items, time, label = log
    value = residuals(user, time, label)
    train = time < 60
    snapshot = int(model.rule.snapshot(torch.tensor([int(time[row])]), torch.tensor([int(user[row])])))
    held = model.rule.holds(snapshot, user, time)
    vectors, people_keys = model.keys.item_vectors[snapshot], model.keys.user_vectors[snapshot]
    query = queries(log, np.array([row]))
    history = [int(i) for i in query.history[0] if i]
    said = []
    for past in history:
        seen = np.flatnonzero((user == user[row]) & (items == past) & (time < time[row]))
        said.append(float(value[seen[np.argsort(time[seen], kind="stable")][-1]]))
    profile = encode(model, snapshot, np.array(history), np.array(said))[0] if history else torch.zeros(2, 4).double()
    met = np.flatnonzero(train & (items == item) & held)
    met = met[np.argsort(time[met], kind="stable")][-5:]
    met = met[user[met] != user[row]]
    numbers: list[float] = []
    for line in range(2):
        for kind in range(2):
            if line == 0:
                cells = [(float(profile[kind] @ people_keys[int(user[e]), kind]), float(value[e])) for e in met]
            else:
                cells = [
                    (float(functional.cosine_similarity(vectors[item, kind], vectors[past, kind], dim=0)), v)
                    for past, v in zip(history, said, strict=True)
                ]
            for t in (1.5, 6.0):
                total = sum(math.exp(t * a) for a, _ in cells)
                rate = sum(math.exp(t * a) * v for a, v in cells) / (total + 3.0)
                numbers += [4 * rate, math.log1p(total / 3.0) / 4]
            agreements = [a for a, _ in cells] or [0.0]
            numbers += [sum(agreements) / len(agreements), max(agreements)]
    raw = sum((v * vectors[past, 1] for past, v in zip(history, said, strict=True)), torch.zeros(4).double())
    taste = float(raw @ vectors[item, 1]) / math.sqrt(sum(abs(v) for v in said) + 5)
    unit = functional.normalize(vectors[item, 0], dim=0)
    return [*numbers, taste, float(profile[0] @ unit), math.log1p(len(met)) / 4, math.log1p(len(history)) / 4]


def test_matches_the_lines_cell_by_cell() -> None:
    log = events(3)
    model = evidence(log, temperatures=(1.5, 6.0))
    rows = np.array([3, 50, 77, 120, 149])
    candidates = torch.tensor([[2, 5, 9]] * len(rows))
    found = model(queries(log, rows), candidates)
    for number, row in enumerate(rows):
        for place, item in enumerate((2, 5, 9)):
            expected = torch.tensor(by_hand(model, log, int(row), item)).double()
            torch.testing.assert_close(found[number, place], expected, rtol=2e-4, atol=2e-5)


def test_the_future_and_the_rows_own_label_change_nothing() -> None:
    log = events(4)
    _, item, time, _ = log
    rows = np.flatnonzero((time > 25) & (time < 50))
    before = evidence(log)(queries(log, rows), torch.from_numpy(item[rows])[:, None])
    for row in rows[:12]:
        changed = another_future(log, int(row))
        at = rows == row
        asked = queries(log, rows[at])
        after = evidence(changed)(asked, torch.from_numpy(item[rows[at]])[:, None])
        block = time[row]
        edge = int(TimeRule.blocks(time[time < 60], 3).exposure_time(torch.tensor(block)))
        assert edge <= block
        torch.testing.assert_close(after, before[torch.from_numpy(at)])


def test_first_block_and_unknown_people_have_nothing_but_themselves() -> None:
    log = events(5)
    model = evidence(log)
    row = np.array([int(np.argmin(log[2]))])
    found = model(queries(log, row), torch.tensor([[4, 7]]))
    assert not found.any()
    nobody = Query(torch.tensor([1]), torch.tensor([-1]), torch.zeros(1, LENGTH).long(), torch.tensor([10**6]))
    found = model(nobody, torch.arange(ITEMS)[None])
    assert torch.isfinite(found).all()


def test_lines_can_be_left_out_and_keys_shuffled() -> None:
    log = events(6)
    rows = np.arange(100, 140)
    asked, items = queries(log, rows), torch.from_numpy(log[1][rows])[:, None]
    whole = evidence(log)(asked, items)[:, 0]
    column, row = (evidence(log, **{name: False})(asked, items)[:, 0] for name in ("row", "column"))
    of_column = torch.tensor([*range(12), 26])
    torch.testing.assert_close(column[:, of_column], whole[:, of_column])
    assert column.ne(0).any(0).nonzero().flatten().tolist() == of_column.tolist()
    assert not row[:, of_column].any()
    shuffled = evidence(log, shuffle_seed=1)(asked, items)[:, 0]
    # The same people and items are counted; only who is alike is another matter.
    torch.testing.assert_close(shuffled[:, 26:], whole[:, 26:])
    assert not torch.allclose(shuffled[:, 4], whole[:, 4])


def test_nothing_of_it_is_learned() -> None:
    log = events(7)
    model, rows = evidence(log), np.arange(60, 150)
    assert not list(model.parameters())
    assert not model(queries(log, rows), torch.from_numpy(log[1][rows])[:, None]).requires_grad


def test_static_rule_is_refused() -> None:
    model = evidence(events())
    with pytest.raises(ValueError, match="blocks"):
        BehaviourEvidence(model.keys, model.people, model.own, TimeRule.static())


def test_a_saved_one_is_loaded_without_the_data() -> None:
    log = events(8)
    model, rows = evidence(log, shuffle_seed=3), np.arange(80, 150)
    empty = BehaviourEvidence(
        ProfileKeys.empty(), ItemLog.empty(), PairLog.empty(ITEMS), model.rule, count=5, history_length=LENGTH
    ).double()
    empty.load_state_dict(model.state_dict())
    asked, items = queries(log, rows), torch.from_numpy(log[1][rows])[:, None]
    torch.testing.assert_close(empty(asked, items), model(asked, items))


def test_pieces_and_gathered_people_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    log = events(9)
    rows = np.arange(60, 150)
    model, asked = evidence(log), queries(log, rows)
    items = torch.from_numpy(np.random.default_rng(0).integers(0, ITEMS, (len(rows), 7)))
    whole = model(asked, items)
    for everybody in (True, False):
        monkeypatch.setattr(BehaviourEvidence, "_meets_everybody", lambda self, items, known=everybody: known)
        for size in (1 << 26, 20_000, 1):
            monkeypatch.setattr("corral.rar.behaviour._PIECE_BYTES", size)
            assert len(model._rows(items)) == {1 << 26: 1, 1: len(rows)}.get(size, len(model._rows(items)))
            torch.testing.assert_close(model(asked, items), whole)


def test_no_query_and_no_item_give_nothing() -> None:
    log = events(10)
    model = evidence(log)
    assert model(queries(log, np.arange(0)), torch.zeros(0, 3).long()).shape == (0, 3, model.size)
    assert model(queries(log, np.arange(100, 104)), torch.zeros(4, 0).long()).shape == (4, 0, model.size)
