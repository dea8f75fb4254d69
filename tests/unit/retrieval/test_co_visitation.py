"""Co-visitation counts against plain loops; a user's own events never speak about that user."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from corral.data.batches import Query
from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.data.split import leave_last_two_out
from corral.data.synthetic import markov_world
from corral.retrieval import co_visitation, co_visitation_channel
from corral.retrieval.co_visitation import CoVisitation, count_pairs
from corral.retrieval.co_visitation_channel import CoVisitationChannel

ITEMS = 14
Weights = dict[tuple[int, int], float]


def sequences(seed: int = 0, users: int = 9) -> list[np.ndarray]:
    """Random sequences of item rows, with repeats; users 0 and 1 (the reserved rows) have none."""
    random = np.random.default_rng(seed)
    lengths = [0, 0, *random.integers(1, 12, users)]
    return [random.integers(2, ITEMS, length) for length in lengths]


def by_hand(sequence: np.ndarray, window: int) -> Weights:
    found: Weights = defaultdict(float)
    for p in range(len(sequence)):
        for q in range(p + 1, min(len(sequence), p + window + 1)):
            if sequence[p] != sequence[q]:
                found[int(sequence[p]), int(sequence[q])] += 1 / (q - p)
    return found


def table(some: list[np.ndarray], window: int = 4) -> CoVisitation:
    items = np.concatenate(some)
    users = np.repeat(np.arange(len(some)), [len(one) for one in some])
    key, weight = count_pairs(items, users, ITEMS, window)
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in some])])
    parts = (key // ITEMS, key % ITEMS, weight, items, offsets)
    return CoVisitation(*(torch.from_numpy(part) for part in parts), num_items=ITEMS, window=window)


def without(some: list[np.ndarray], user: int, window: int) -> Weights:
    total: Weights = defaultdict(float)
    for number, sequence in enumerate(some):
        if number != user:
            for pair, weight in by_hand(sequence, window).items():
                total[pair] += weight
    return total


@pytest.fixture(autouse=True, params=["full matrix", "binary search"])
def _way_of_looking_up(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything here holds for small catalogues, looked up in a full matrix, and for large ones."""
    if request.param == "binary search":
        monkeypatch.setattr(co_visitation, "_CELLS", 0)


@pytest.mark.parametrize("window", [1, 3, 50])
def test_counts_are_those_of_a_plain_loop(window: int) -> None:
    some = sequences()
    wanted = without(some, -1, window)
    found = table(some, window)
    pairs = torch.cartesian_prod(torch.arange(ITEMS), torch.arange(ITEMS))
    looked_up = found.lookup(pairs[:, 0], pairs[:, 1])
    expected = torch.tensor([wanted.get((int(a), int(b)), 0.0) for a, b in pairs])
    torch.testing.assert_close(looked_up, expected)
    assert len(found.keys) == len(wanted)


@pytest.mark.parametrize("window", [1, 4, 50])
def test_evidence_is_as_if_the_user_had_never_been_there(window: int) -> None:
    some = sequences(3)
    found = table(some, window)
    users = torch.arange(len(some))
    history = torch.randint(0, ITEMS, (len(some), 6), generator=torch.Generator().manual_seed(1))
    items = torch.arange(ITEMS).expand(len(some), -1)
    ahead, behind = found.between(users, history, items)
    for user in range(len(some)):
        wanted = without(some, user, window)
        for column in range(ITEMS):
            for slot, past in enumerate(history[user].tolist()):
                pair = (past, column)
                assert float(ahead[user, column, slot]) == pytest.approx(wanted.get(pair, 0.0), abs=1e-5)
                assert float(behind[user, column, slot]) == pytest.approx(wanted.get(pair[::-1], 0.0), abs=1e-5)


def test_a_pair_that_only_the_user_made_leaves_exactly_nothing() -> None:
    some = [np.zeros(0, dtype=np.int64)] * 2 + [np.array([2, 3, 4, 2, 5, 3]), np.array([6, 7])]
    ahead, behind = table(some).between(torch.tensor([2]), torch.tensor([[2, 3, 4]]), torch.tensor([[3, 5, 4]]))
    assert float(ahead.abs().sum() + behind.abs().sum()) == 0.0


def test_the_table_of_a_split_holds_train_events_alone(tmp_path: Path) -> None:
    """Other items in the events of validation and test: the same counts."""
    world = markov_world(users=30, items=12, length=8).interactions
    events = world.events.sort("user_id", "timestamp")
    late = events.with_columns(
        item_id=pl.when(pl.int_range(pl.len()).over("user_id") >= 6)
        .then((pl.col("item_id") + 5) % 12)
        .otherwise(pl.col("item_id"))
    )
    tables = []
    for name, some in (("a", events), ("b", late)):
        dataset = Dataset.write(tmp_path / name, Interactions.of(some, source=name), name=name)
        tables.append(CoVisitation.of(dataset, leave_last_two_out(dataset), window=3))
    for name, buffer in tables[0].named_buffers():
        torch.testing.assert_close(buffer, dict(tables[1].named_buffers())[name], rtol=0, atol=0)


def query(user: list[int], history: list[list[int]]) -> Query:
    return Query(torch.tensor(user), torch.full((len(user),), -1), torch.tensor(history), torch.zeros(len(user)).long())


def test_channel_scores_against_a_plain_loop_with_exclusions() -> None:
    some = sequences(7, users=25)
    counts, found = np.bincount(np.concatenate(some), minlength=ITEMS), table(some, 5)
    channel = CoVisitationChannel(found, recent=3, decay=0.5, power=0.4)
    asked = query([2, 3, 4], [[2, 5, 7, 3], [0, 0, 0, 9], [0, 0, 0, 0]])
    # A row of a longer catalogue, which hides nothing: not another query's item either.
    exclude = torch.tensor([[5, 7, ITEMS + 4], [0, 9, 0], [0, 0, 0]])
    given = channel.recall(asked, 8, exclude)
    wanted = without(some, -1, 5)
    for row, history in enumerate(asked.history.tolist()):
        scores = {}
        for item in range(2, ITEMS):
            total = 0.0
            for step, past in enumerate(reversed(history[-3:])):
                if past:
                    total += 0.5**step * (wanted.get((past, item), 0.0) + wanted.get((item, past), 0.0))
            if total and item not in exclude[row].tolist():
                scores[item] = total / counts[item] ** 0.4
        best = sorted(scores, key=lambda item: -scores[item])[:8]
        assert given.items[row].tolist()[: len(best)] == best
        assert given.items[row, len(best) :].tolist() == [0] * (8 - len(best))
        torch.testing.assert_close(
            given.scores[row, : len(best)], torch.tensor([scores[item] for item in best], dtype=torch.float32)
        )


def test_channel_keeps_to_the_allowed_items() -> None:
    channel = CoVisitationChannel(table(sequences(7, users=25), 5))
    allow = torch.zeros(ITEMS, dtype=torch.bool)
    allow[[3, 4]] = True
    given = channel.recall(query([2], [[2, 5, 7]]), 5, None, allow)
    assert set(given.items[0].tolist()) <= {0, 3, 4}


def test_the_end_of_allow_is_the_end_of_what_is_allowed() -> None:
    channel, asked = CoVisitationChannel(table(sequences(7, users=25), 5)), query([2], [[2, 5, 7]])
    allow = torch.zeros(ITEMS, dtype=torch.bool)
    allow[[3, 4]] = True
    wanted = channel.recall(asked, 5, None, allow)
    assert torch.equal(channel.recall(asked, 5, None, allow[:5]).items, wanted.items)


@pytest.mark.parametrize("bound", [1, 9, 60])
def test_lists_are_the_same_in_blocks(bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    history, exclude = (torch.from_numpy(random.integers(0, ITEMS, (11, width))) for width in (4, 2))
    history[3] = 0
    asked = query(list(range(11)), history.tolist())
    channel = CoVisitationChannel(table(sequences(7, users=25), 5))
    wanted = channel.recall(asked, 6, exclude)
    monkeypatch.setattr(co_visitation_channel, "_MET", bound)
    given = channel.recall(asked, 6, exclude)
    assert torch.equal(given.items, wanted.items)
    torch.testing.assert_close(given.scores, wanted.scores)
    assert channel.recall(asked.where(torch.zeros(11, dtype=torch.bool)), 6).items.shape == (0, 6)


@pytest.mark.parametrize("bound", [1, 7, 40])
def test_own_shares_are_the_same_in_parts(bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many places are searched together: one user's sequence is ten times as long as the others'."""
    random = np.random.default_rng(0)
    some = [*sequences(3), random.integers(2, ITEMS, 120)]
    users = torch.arange(len(some))
    past, items = (torch.from_numpy(random.integers(0, ITEMS, (len(some), 6))) for _ in range(2))
    whole = table(some).between(users, past, items)
    monkeypatch.setattr(co_visitation, "_LOOKED_AT", bound)
    for one, other in zip(whole, table(some).between(users, past, items), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_window_must_be_positive() -> None:
    with pytest.raises(ValueError, match="window=0"):
        count_pairs(np.array([2, 3]), np.array([2, 2]), ITEMS, 0)


def test_an_empty_table_takes_saved_buffers() -> None:
    full = table(sequences())
    again = CoVisitation.empty(**full.sizes)
    pairs = torch.cartesian_prod(torch.arange(ITEMS), torch.arange(ITEMS))
    assert not again.lookup(*pairs.T).any()
    again.load_state_dict(full.state_dict())
    torch.testing.assert_close(again.lookup(*pairs.T), full.lookup(*pairs.T), rtol=0, atol=0)


def test_a_table_that_was_asked_before_follows_its_precision() -> None:
    full = table(sequences())
    pairs = torch.cartesian_prod(torch.arange(ITEMS), torch.arange(ITEMS))
    before = full.lookup(*pairs.T)
    exact = full.double().lookup(*pairs.T)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact, before.double(), rtol=0, atol=0)


def test_a_longer_catalogue_keeps_the_counts() -> None:
    full = table(sequences())
    moved = torch.tensor([0, 1, *range(4, ITEMS + 2)])
    longer = full.renumbered(moved, ITEMS + 3)
    history, items = torch.randint(0, ITEMS, (11, 4)), torch.randint(0, ITEMS, (11, 5))
    users = torch.arange(11)
    for old, new in zip(
        full.between(users, history, items), longer.between(users, moved[history], moved[items]), strict=True
    ):
        torch.testing.assert_close(new, old)
    assert float(longer.lookup(torch.tensor([2]), torch.arange(ITEMS + 3)).sum()) == 0.0
