"""What every retriever owes its callers. A new retriever joins by one line in ``RETRIEVERS``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor, nn

from corral.data.batches import Query, SequenceBatch
from corral.data.dataset import Dataset
from corral.data.event_loader import EventLoader
from corral.data.examples import Examples
from corral.data.features import FeatureTable
from corral.data.sequence_loader import SequenceLoader
from corral.data.split import Part, Split, time_cut
from corral.data.synthetic import CheckerboardWorld, MarkovWorld, checkerboard_world, markov_world
from corral.data.vocabulary import UNKNOWN, Vocabulary
from corral.retrieval.feature_fields import NumericScale
from corral.retrieval.gru4rec import GRU4Rec
from corral.retrieval.matrix_factorization import MatrixFactorization
from corral.retrieval.popularity import PopularityRetriever
from corral.retrieval.retriever import CausalRetriever, Retriever
from corral.retrieval.sasrec import SASRec
from corral.retrieval.two_tower import TwoTower
from corral.training.fit import fit
from corral.training.optimizers import RowWiseAdam
from corral.training.retrieval_objectives import FullSoftmaxObjective

USERS, ITEMS, SIZE, LENGTH = 20, 50, 8, 7


def features(count: int, key: str) -> FeatureTable:
    ids = list(range(count - 2))
    frame = pl.DataFrame(
        {
            key: ids,
            "group": [f"g{i % 3}" for i in ids],
            "tags": [[f"t{j}" for j in range(i % 4)] for i in ids],
            "number": [float(i) if i % 5 else None for i in ids],
        }
    )
    return FeatureTable.build(frame, key, Vocabulary.of(frame[key]))


USER_FEATURES, ITEM_FEATURES = features(USERS, "user_id"), features(ITEMS, "item_id")
SCALES = {"number": NumericScale(9.0, 5.0)}

CAUSAL: dict[str, Callable[[], nn.Module]] = {
    "gru4rec": lambda: GRU4Rec(ITEMS, size=SIZE, hidden=12, max_length=LENGTH),
    "gru4rec, two layers": lambda: GRU4Rec(ITEMS, size=SIZE, hidden=6, layers=2, max_length=LENGTH),
    "sasrec": lambda: SASRec(ITEMS, size=SIZE, max_length=LENGTH),
    "sasrec, two heads": lambda: SASRec(ITEMS, size=SIZE, max_length=LENGTH, blocks=1, heads=2),
}
RETRIEVERS: dict[str, Callable[[], nn.Module]] = {
    "popularity": lambda: PopularityRetriever(torch.arange(ITEMS)),
    "mf": lambda: MatrixFactorization(USERS, ITEMS, size=SIZE),
    "mf, sparse": lambda: MatrixFactorization(USERS, ITEMS, size=SIZE, sparse=True),
    "two-tower": lambda: TwoTower(USERS, ITEMS, size=SIZE, hidden=(6,)),
    "two-tower, features": lambda: TwoTower(
        USERS,
        ITEMS,
        USER_FEATURES,
        ITEM_FEATURES,
        user_scales=SCALES,
        item_scales=SCALES,
        size=SIZE,
        hidden=(6, 5),
        history_length=4,
    ),
    "two-tower, history alone": lambda: TwoTower(USERS, ITEMS, size=SIZE, user_id=False, sparse=True),
    "two-tower, features alone": lambda: TwoTower(
        USERS, ITEMS, USER_FEATURES, ITEM_FEATURES, size=SIZE, user_id=False, item_id=False
    ),
    **CAUSAL,
}


def build(make: Callable[[], nn.Module]) -> Any:
    """In evaluation mode, float64, with every weight random: zeros (an empty query) would hide mistakes."""
    torch.manual_seed(0)
    model = make().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture(params=RETRIEVERS)
def retriever(request: pytest.FixtureRequest) -> Any:
    return build(RETRIEVERS[request.param])


@pytest.fixture(params=CAUSAL)
def causal(request: pytest.FixtureRequest) -> Any:
    return build(CAUSAL[request.param])


def make_query(queries: int, length: int = LENGTH) -> Query:
    """Histories of all lengths; the first query has none, the second an unknown user."""
    generator = torch.Generator().manual_seed(queries)
    history = torch.randint(2, ITEMS, (queries, length), generator=generator)
    lengths = torch.randint(0, length + 1, (queries, 1), generator=generator)
    lengths[0] = 0
    history[torch.arange(length) < length - lengths] = 0
    user = torch.randint(2, USERS, (queries,), generator=generator)
    user[1:2] = UNKNOWN
    return Query(user, torch.full((queries,), -1), history, torch.arange(queries) + 1_000)


def part_of(query: Query, rows: slice, history: Tensor | None = None) -> Query:
    past = query.history if history is None else history
    return Query(query.user[rows], query.event[rows], past[rows], query.time[rows])


def make_sequence(history: Tensor) -> SequenceBatch:
    slots = torch.arange(history.shape[1]).expand_as(history)
    return SequenceBatch(torch.full((len(history),), 2), history, slots, slots, slots, history != 0)


@torch.no_grad()
def test_shapes(retriever: Any) -> None:
    assert isinstance(retriever, Retriever)
    items = torch.arange(ITEMS)
    vectors = retriever.encode_items(items)
    size = vectors.shape[-1]
    assert vectors.shape == (ITEMS, size)
    assert vectors.dtype == torch.float64 or isinstance(retriever, PopularityRetriever)
    assert vectors.isfinite().all()
    cube = items[:24].view(2, 3, 4)
    torch.testing.assert_close(retriever.encode_items(cube), vectors[:24].view(2, 3, 4, size))
    for count in (1, 6):
        queries = retriever.encode_queries(make_query(count))
        assert queries.shape == (count, size)
        assert queries.isfinite().all()


def test_no_queries_give_no_vectors_and_train(retriever: Any) -> None:
    """A worker's share of a small batch may be empty."""
    nobody = part_of(make_query(2), slice(0, 0))
    vectors = retriever.train().encode_queries(nobody)
    assert vectors.shape == (0, retriever.encode_items(torch.arange(3)).shape[1])
    if isinstance(retriever, CausalRetriever):
        positions = retriever.encode_positions(make_sequence(nobody.history))
        assert positions.shape == (0, LENGTH + 1, vectors.shape[1])
        positions.sum().backward()
    elif vectors.requires_grad:
        vectors.sum().backward()


@torch.no_grad()
def test_evaluation_is_deterministic(retriever: Any) -> None:
    query = make_query(6)
    assert torch.equal(retriever.encode_queries(query), retriever.encode_queries(query))
    assert torch.equal(retriever.encode_items(query.history), retriever.encode_items(query.history))


@torch.no_grad()
def test_a_batch_of_one_equals_its_row(retriever: Any) -> None:
    query = make_query(9)
    whole = retriever.encode_queries(query)
    for row in range(9):
        alone = retriever.encode_queries(part_of(query, slice(row, row + 1)))
        torch.testing.assert_close(alone[0], whole[row], rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_padding_in_front_changes_nothing(retriever: Any) -> None:
    query = make_query(9)
    more = torch.cat([torch.zeros(9, 5, dtype=torch.int64), query.history], 1)
    torch.testing.assert_close(
        retriever.encode_queries(part_of(query, slice(None), more)),
        retriever.encode_queries(query),
        rtol=1e-10,
        atol=1e-12,
    )


@torch.no_grad()
def test_no_history_at_all(retriever: Any) -> None:
    """Whether the history has no columns or only padding."""
    query = make_query(4)
    answers = [
        retriever.encode_queries(part_of(query, slice(None), torch.zeros(4, width, dtype=torch.int64)))
        for width in (0, 1, LENGTH)
    ]
    assert answers[0].isfinite().all()
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0], rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_only_the_last_items_of_a_long_history_count(retriever: Any) -> None:
    query = make_query(6, 3 * LENGTH)
    cut = part_of(query, slice(None), query.history[:, -LENGTH:])
    if isinstance(retriever, TwoTower):
        retriever.history_length = LENGTH
    torch.testing.assert_close(retriever.encode_queries(query), retriever.encode_queries(cut), rtol=1e-10, atol=1e-12)


def test_training_reaches_every_weight(retriever: Any) -> None:
    """One step of gradients, for queries with and without a history."""
    if not list(retriever.parameters()):
        return
    retriever.train()
    query = make_query(64)
    scores = retriever.encode_queries(query) @ retriever.encode_items(torch.arange(2, ITEMS)).T
    scores.logsumexp(1).sum().backward()
    missing = [name for name, parameter in retriever.named_parameters() if parameter.grad is None]
    assert missing == []


# Causal ones


@torch.no_grad()
def test_positions_are_the_queries_of_the_prefixes(causal: Any) -> None:
    assert isinstance(causal, CausalRetriever)
    history = make_query(9).history
    positions = causal.encode_positions(make_sequence(history))
    assert positions.shape == (9, LENGTH + 1, SIZE)
    for j in range(LENGTH + 1):
        prefix = part_of(make_query(9), slice(None), history[:, :j])
        torch.testing.assert_close(positions[:, j], causal.encode_queries(prefix), rtol=1e-10, atol=1e-10)


def test_later_items_never_reach_earlier_queries(causal: Any) -> None:
    """By gradient: that of query j with respect to the items from slot j on is exactly zero."""
    history = make_query(9).history
    history[-1] = torch.arange(2, 2 + LENGTH)  # without padding, all different
    table = causal.item_embedding
    captured: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        captured.append(output.detach().requires_grad_())
        return captured[-1]

    handle = table.register_forward_hook(keep)
    positions = causal.encode_positions(make_sequence(history))
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


@torch.no_grad()
def test_changing_a_later_item_changes_no_earlier_query(causal: Any) -> None:
    history = make_query(9).history
    positions = causal.encode_positions(make_sequence(history))
    for slot in range(LENGTH):
        other = history.clone()
        other[:, slot] = torch.where(history[:, slot] != 0, (history[:, slot] + 7 - 2) % (ITEMS - 2) + 2, 0)
        changed = causal.encode_positions(make_sequence(other))
        assert torch.equal(changed[:, : slot + 1], positions[:, : slot + 1])
        real = history[:, slot] != 0
        assert (changed[real, slot + 1] != positions[real, slot + 1]).any(1).all()


def test_sasrec_refuses_sequences_beyond_its_positions() -> None:
    model = SASRec(ITEMS, size=SIZE, max_length=4)
    with pytest.raises(ValueError, match="max_length=4"):
        model.encode_positions(make_sequence(make_query(3).history))
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
