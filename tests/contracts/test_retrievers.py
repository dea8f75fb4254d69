"""What every retriever owes its callers. A new retriever joins by one line in ``RETRIEVERS``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from corral.data.batches import Query, SequenceBatch
from corral.data.dataset import Dataset
from corral.data.event_loader import EventLoader
from corral.data.examples import Examples
from corral.data.sequence_loader import SequenceLoader
from corral.data.split import Part, Split, time_cut
from corral.data.synthetic import CheckerboardWorld, MarkovWorld, checkerboard_world, markov_world
from corral.retrieval.feature_fields import NumericScale
from corral.retrieval.gru4rec import GRU4Rec
from corral.retrieval.matrix_factorization import MatrixFactorization
from corral.retrieval.popularity import PopularityRetriever
from corral.retrieval.retriever import CausalRetriever
from corral.retrieval.sasrec import SASRec
from corral.retrieval.text_tower import TextTower
from corral.retrieval.two_tower import TwoTower
from corral.testing.retrievers import (
    CAUSAL_CHECKS,
    CHECKS,
    ITEMS,
    LENGTH,
    USERS,
    MakeRetriever,
    check_retriever,
    no_position_sees_what_comes_after_it,
    queries,
    sequences,
    small_retriever,
)
from corral.testing.small_world import one_query, small_queries
from corral.training.fit import fit
from corral.training.optimizers import RowWiseAdam
from corral.training.retrieval_objectives import FullSoftmaxObjective

SIZE = 8
SCALES = {"number": NumericScale(9.0, 5.0)}


class WordCounts:
    """In place of a text encoder: counts of hashed letters, with the signature of sentence-transformers."""

    def encode(self, sentences: list[str]) -> np.ndarray:
        return np.array([np.bincount([ord(letter) % 16 for letter in text], minlength=16) for text in sentences])


CAUSAL: dict[str, MakeRetriever] = {
    "gru4rec": lambda users, items: GRU4Rec(items.rows, size=SIZE, hidden=12, max_length=LENGTH),
    "gru4rec, two layers": lambda users, items: GRU4Rec(items.rows, size=SIZE, hidden=6, layers=2, max_length=LENGTH),
    "sasrec": lambda users, items: SASRec(items.rows, size=SIZE, max_length=LENGTH),
    "sasrec, two heads": lambda users, items: SASRec(items.rows, size=SIZE, max_length=LENGTH, blocks=1, heads=2),
}
RETRIEVERS: dict[str, MakeRetriever] = {
    "popularity": lambda users, items: PopularityRetriever(torch.arange(items.rows)),
    "mf": lambda users, items: MatrixFactorization(users.rows, items.rows, size=SIZE),
    "mf, sparse": lambda users, items: MatrixFactorization(users.rows, items.rows, size=SIZE, sparse=True),
    "two-tower": lambda users, items: TwoTower(users.rows, items.rows, size=SIZE, hidden=(6,)),
    "two-tower, features": lambda users, items: TwoTower(
        users.rows,
        items.rows,
        users,
        items,
        user_scales=SCALES,
        item_scales=SCALES,
        size=SIZE,
        hidden=(6, 5),
        history_length=4,
    ),
    "two-tower, history alone": lambda users, items: TwoTower(
        users.rows, items.rows, size=SIZE, user_id=False, sparse=True
    ),
    "two-tower, features alone": lambda users, items: TwoTower(
        users.rows, items.rows, users, items, size=SIZE, user_id=False, item_id=False
    ),
    "text tower": lambda users, items: TextTower(users, items, encoder=WordCounts(), size=SIZE, hidden=6),
    "text tower, ids": lambda users, items: TextTower(
        users, items, encoder=WordCounts(), columns=["title"], size=SIZE, item_id=True
    ),
    **CAUSAL,
}


@pytest.mark.parametrize("name", RETRIEVERS)
@pytest.mark.parametrize("check", CHECKS)
def test_contract(check: Callable[[Any], None], name: str) -> None:
    check(small_retriever(RETRIEVERS[name]))


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("check", CAUSAL_CHECKS)
def test_contract_of_causal_ones(check: Callable[[Any], None], name: str) -> None:
    check(small_retriever(CAUSAL[name]))


def test_all_checks_in_one_call() -> None:
    check_retriever(CAUSAL["sasrec"])


@pytest.fixture(params=RETRIEVERS)
def retriever(request: pytest.FixtureRequest) -> Any:
    return small_retriever(RETRIEVERS[request.param])


@pytest.fixture(params=CAUSAL)
def causal(request: pytest.FixtureRequest) -> Any:
    return small_retriever(CAUSAL[request.param])


def test_no_queries_give_no_vectors_and_train(retriever: Any) -> None:
    """A worker's share of a small batch may be empty."""
    nobody = one_query(queries(1), -1)
    vectors = retriever.train().encode_queries(nobody)
    assert vectors.shape == (0, retriever.encode_items(torch.arange(3)).shape[1])
    if isinstance(retriever, CausalRetriever):
        positions = retriever.encode_positions(sequences(nobody.history))
        assert positions.shape == (0, LENGTH + 1, vectors.shape[1])
        positions.sum().backward()
    elif vectors.requires_grad:
        vectors.sum().backward()


@torch.no_grad()
def test_vectors_keep_their_precision(retriever: Any) -> None:
    vectors = retriever.encode_items(torch.arange(ITEMS))
    assert vectors.dtype == torch.float64 or isinstance(retriever, PopularityRetriever)


@torch.no_grad()
def test_only_the_last_items_of_a_long_history_count(retriever: Any) -> None:
    query = small_queries(6, users=USERS, items=ITEMS, length=3 * LENGTH)
    cut = query.recent(LENGTH)
    if isinstance(retriever, TwoTower | TextTower):
        retriever.history_length = LENGTH
    torch.testing.assert_close(retriever.encode_queries(query), retriever.encode_queries(cut), rtol=1e-10, atol=1e-12)


class Wrong(nn.Module):
    """The last item's vector, with something broken in it; the checks must notice."""

    def __init__(self, items: int, fault: str) -> None:
        super().__init__()
        self.fault, self.item_embedding = fault, nn.Embedding(items, SIZE)
        self.unused = nn.Linear(2, 2) if fault == "an unused weight" else None

    def encode_items(self, items: Tensor) -> Tensor:
        vectors = self.item_embedding(items)
        if self.fault == "no vector of padding":
            return vectors / (items != 0)[..., None]
        return vectors.squeeze(-2) if self.fault == "loses an axis" and items.shape[-1] == 4 else vectors

    def encode_queries(self, query: Query) -> Tensor:
        history = query.history if query.history.shape[1] else query.history.new_zeros(len(query), 1)
        vectors = self.item_embedding(history)
        if self.fault == "reads the padding":
            return vectors.mean(1)
        found = (vectors * (history != 0)[..., None]).sum(1)
        if self.fault == "normalises over the batch":
            return found - found.mean(0)
        return found + torch.randn_like(found) if self.fault == "noise" else found

    def encode_positions(self, sequence: SequenceBatch) -> Tensor:
        vectors = self.item_embedding(sequence.items) * (sequence.items != 0)[..., None]
        sums = torch.cat([torch.zeros_like(vectors[:, :1]), vectors.cumsum(1)], 1)
        if self.fault == "looks ahead":
            return torch.cat([sums[:, 1:], sums[:, -1:]], 1)
        return sums.roll(1, 1) if self.fault == "one position off" else sums


@pytest.mark.parametrize(
    ("fault", "promise"),
    [
        ("no vector of padding", "item vectors are finite"),
        ("an unused weight", "training reaches every weight, but not unused"),
        ("reads the padding", "padding"),
        ("normalises over the batch", "other queries of its batch"),
        ("noise", "ignores eval"),
        ("looks ahead", "is the query of the first"),
        ("one position off", "position 0 is the query"),
    ],
)
def test_the_checks_reject_a_wrong_retriever(fault: str, promise: str) -> None:
    check_retriever(lambda users, items: Wrong(items.rows, ""))
    with pytest.raises(AssertionError, match=promise):
        check_retriever(lambda users, items: Wrong(items.rows, fault))


def test_looking_ahead_is_noticed_by_itself() -> None:
    with pytest.raises(AssertionError, match="the model looks ahead"):
        no_position_sees_what_comes_after_it(Wrong(ITEMS, "looks ahead").double())


def test_later_items_never_reach_earlier_queries(causal: Any) -> None:
    """By gradient: that of query j with respect to the items from slot j on is exactly zero."""
    history = queries(9).history
    history[-1] = torch.arange(2, 2 + LENGTH)  # without padding, all different
    table = causal.item_embedding
    captured: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        captured.append(output.detach().requires_grad_())
        return captured[-1]

    handle = table.register_forward_hook(keep)
    positions = causal.encode_positions(sequences(history))
    handle.remove()
    (packed,) = captured  # in packed order: a row's real items first
    real = (history != 0).sum(1)
    for j in range(LENGTH + 1):
        seen = (j - (LENGTH - real)).clamp(min=0)
        (gradient,) = torch.autograd.grad(positions[:, j].sum(), packed, retain_graph=True, allow_unused=True)
        if gradient is None:
            continue
        later = torch.arange(LENGTH) >= seen[:, None]
        assert (gradient[later] == 0).all()
        assert all((gradient[row, : seen[row]] != 0).any(1).all() for row in range(9))


def test_sasrec_refuses_sequences_beyond_its_positions() -> None:
    model = SASRec(ITEMS, size=SIZE, max_length=4)
    with pytest.raises(ValueError, match="max_length=4"):
        model.encode_positions(sequences(queries(3).history))
    with pytest.raises(ValueError, match="heads=3 must divide size=8"):
        SASRec(ITEMS, size=SIZE, heads=3)


def test_two_tower_needs_something_of_the_item() -> None:
    with pytest.raises(ValueError, match="the item tower sees nothing"):
        TwoTower(USERS, ITEMS, size=SIZE, item_id=False)


# Learning: worlds with a known answer, within seconds


@pytest.fixture(scope="module")
def markov(tmp_path_factory: pytest.TempPathFactory) -> tuple[MarkovWorld, Dataset, Split]:
    world = markov_world(users=150, items=30, length=14, noise=0.1)
    dataset = Dataset.write(tmp_path_factory.mktemp("markov") / "data", world.interactions)
    return world, dataset, time_cut(dataset)


@pytest.fixture(scope="module")
def checkerboard(tmp_path_factory: pytest.TempPathFactory) -> tuple[CheckerboardWorld, Dataset, Split]:
    world = checkerboard_world(users=120, items=32, groups=4, length=16, noise=0.1)
    dataset = Dataset.write(tmp_path_factory.mktemp("checkerboard") / "data", world.interactions)
    return world, dataset, time_cut(dataset)


LEARNERS: dict[str, Callable[[int], nn.Module]] = {
    "gru4rec": lambda items: GRU4Rec(items, size=24, hidden=32, max_length=12, dropout=0.1),
    "sasrec": lambda items: SASRec(items, size=24, max_length=12, blocks=1, dropout=0.1),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_causal_ones_learn_what_follows(name: str, markov: tuple[MarkovWorld, Dataset, Split]) -> None:
    """The successor of the last item comes first, though the last item alone says so."""
    world, dataset, split = markov
    torch.manual_seed(1)
    model: Any = LEARNERS[name](dataset.n_items)
    objective = FullSoftmaxObjective(model, torch.from_numpy(split.catalogue(dataset)))
    loader = SequenceLoader(dataset, split, length=12, batch_size=32, seed=0)
    fit(objective, loader, RowWiseAdam(objective, learning_rate=0.01), epochs=25)
    items = torch.arange(2, dataset.n_items)
    history = torch.cat([torch.randint(2, dataset.n_items, (len(items), 3)), items[:, None]], 1)
    blank = torch.ones(len(items), dtype=torch.int64)
    with torch.no_grad():
        scores = model.encode_queries(Query(blank, -blank, history, blank)) @ model.encode_items(items).T
    wanted = torch.from_numpy(dataset.items.rows(world.successor[dataset.items.external(items.numpy())])) - 2
    assert float((scores.argmax(1) == wanted).double().mean()) > 0.9


TOWERS: dict[str, Callable[[Dataset], nn.Module]] = {
    "mf": lambda data: MatrixFactorization(data.n_users, data.n_items, size=16),
    "mf, sparse": lambda data: MatrixFactorization(data.n_users, data.n_items, size=16, sparse=True),
    "two-tower": lambda data: TwoTower(data.n_users, data.n_items, size=16, hidden=(16,)),
    "two-tower, features": lambda data: TwoTower(
        data.n_users, data.n_items, data.user_features, data.item_features, size=16, hidden=(16,)
    ),
    "two-tower, features alone": lambda data: TwoTower(
        data.n_users,
        data.n_items,
        data.user_features,
        data.item_features,
        size=16,
        hidden=(16,),
        user_id=False,
        item_id=False,
    ),
}


@pytest.mark.parametrize("name", TOWERS)
def test_towers_learn_the_checkerboard(name: str, checkerboard: tuple[CheckerboardWorld, Dataset, Split]) -> None:
    """Items of the user's own group come before the others."""
    world, dataset, split = checkerboard
    torch.manual_seed(1)
    model: Any = TOWERS[name](dataset)
    catalogue = torch.from_numpy(split.catalogue(dataset))
    objective = FullSoftmaxObjective(model, catalogue)
    loader = EventLoader(Examples.of(dataset, split, Part.TRAIN), history_length=10, batch_size=128, seed=0)
    fit(objective, loader, RowWiseAdam(objective, learning_rate=0.02), epochs=10)
    users = torch.arange(2, dataset.n_users)
    history = split.histories(dataset).gather(users.numpy(), dataset.events.offsets[3:], 10)
    with torch.no_grad():
        scores = model.encode_queries(Query(users, -users, history, users)) @ model.encode_items(catalogue).T
    ids = [torch.tensor(vocabulary.external(rows.numpy())) for vocabulary, rows in
           ((dataset.users, users), (dataset.items, catalogue))]  # fmt: skip
    liked = torch.from_numpy(world.likes(ids[0].numpy()[:, None], ids[1].numpy()[None, :]))
    top = scores.topk(8).indices  # as many as a group has
    assert float(liked.gather(1, top).double().mean()) > 0.9
