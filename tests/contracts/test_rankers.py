"""What every ranker owes its callers. A new ranker joins by one line in ``RANKERS``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from corral.data.batches import Query
from corral.data.features import FeatureTable
from corral.data.vocabulary import PADDING, UNKNOWN, Vocabulary
from corral.ranking.ctr.autoint import AutoInt
from corral.ranking.ctr.bst import BST
from corral.ranking.ctr.dcnv2 import DCNV2
from corral.ranking.ctr.deepfm import DeepFM
from corral.ranking.ctr.dien import DIEN
from corral.ranking.ctr.din import DIN
from corral.ranking.ctr.eta import ETA
from corral.ranking.ctr.fibinet import FiBiNET
from corral.ranking.ctr.finalmlp import FinalMLP
from corral.ranking.ctr.fm import FM
from corral.ranking.ctr.foreign import ForeignCtr, ForeignForm
from corral.ranking.ctr.lr import LR
from corral.ranking.ctr.masknet import MaskNet
from corral.ranking.ctr.sdim import SDIM
from corral.ranking.ctr.xdeepfm import XDeepFM
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker

USERS, ITEMS, SIZE = 30, 5000, 8


def features(count: int, key: str) -> FeatureTable:
    ids = list(range(count - 2))
    frame = pl.DataFrame(
        {
            key: ids,
            "group": [f"g{i % 7}" for i in ids],
            "tags": [[f"t{j}" for j in range(i % 4)] for i in ids],
            "number": [float(i % 11) if i % 5 else None for i in ids],
        }
    )
    return FeatureTable.build(frame, key, Vocabulary.of(frame[key]))


USER_FEATURES, ITEM_FEATURES = features(USERS, "user_id"), features(ITEMS, "item_id")


def make_fields(field_size: int = SIZE, **keywords: Any) -> Fields:
    return Fields(USERS, ITEMS, USER_FEATURES, ITEM_FEATURES, field_size=field_size, embedding_std=0.5, **keywords)


def rank_by(model: Callable[..., nn.Module], fields: Fields, **keywords: Any) -> FieldRanker:
    ctr = model(fields.field_size, fields.num_context_fields, fields.num_item_fields, **keywords)
    return FieldRanker(fields, ctr)  # type: ignore[arg-type]


def rank_by_foreign(fields: Fields) -> FieldRanker:
    """A plain MLP with a sigmoid at its end."""
    size = (fields.num_context_fields + fields.num_item_fields) * fields.field_size
    module = nn.Sequential(nn.Linear(size, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())
    return FieldRanker(fields, ForeignCtr(module, form=ForeignForm.FLAT, probabilities=True))


RANKERS: dict[str, Callable[[], nn.Module]] = {
    "lr": lambda: rank_by(LR, make_fields(1)),
    "fm": lambda: rank_by(FM, make_fields()),
    "deepfm": lambda: rank_by(DeepFM, make_fields(), hidden=(8, 4), dropout=0.1, batch_norm=True),
    "deepfm-no-context": lambda: rank_by(
        DeepFM,
        Fields(USERS, ITEMS, item_features=ITEM_FEATURES, field_size=SIZE, user_id=False, pool_history=False),
        hidden=(8,),
    ),
    "dcnv2": lambda: rank_by(DCNV2, make_fields(), hidden=(8, 4), dropout=0.1, batch_norm=True),
    "dcnv2-low-rank": lambda: rank_by(DCNV2, make_fields(id_dropout=0.1), hidden=(8,), rank=3),
    "autoint": lambda: rank_by(AutoInt, make_fields(), layers=2, attention_size=4, hidden=(8, 4), batch_norm=True),
    "autoint-alone": lambda: rank_by(AutoInt, make_fields(id_dropout=0.1), layers=1, attention_size=None, hidden=()),
    "fibinet": lambda: rank_by(FiBiNET, make_fields(), hidden=(8, 4), dropout=0.1, batch_norm=True),
    "fibinet-each": lambda: rank_by(FiBiNET, make_fields(), bilinear="each", hidden=(8,)),
    "fibinet-all": lambda: rank_by(FiBiNET, make_fields(), bilinear="all", hidden=(8,)),
    "xdeepfm": lambda: rank_by(XDeepFM, make_fields(), cin=(4, 3), hidden=(8, 4), dropout=0.1, batch_norm=True),
    "xdeepfm-cin-alone": lambda: rank_by(XDeepFM, make_fields(), cin=(5,), hidden=()),
    "masknet": lambda: rank_by(MaskNet, make_fields(), block_size=6, hidden=(8, 4), dropout=0.1, batch_norm=True),
    "masknet-serial": lambda: rank_by(MaskNet, make_fields(), block_size=6, parallel=False, dropout=0.1),
    "finalmlp": lambda: rank_by(FinalMLP, make_fields(), heads=2, hidden=(8, 4), dropout=0.1, batch_norm=True),
    "finalmlp-without-gates": lambda: rank_by(FinalMLP, make_fields(), hidden=(8, 4), gating=False),
    "dien": lambda: rank_by(DIEN, make_fields(), hidden=(8, 4), batch_norm=True),
    "dien-small": lambda: rank_by(DIEN, make_fields(pool_history=False), state_size=4, hidden=(8,), dropout=0.1),
    "bst": lambda: rank_by(BST, make_fields(), heads=2, hidden=(8, 4), dropout=0.1, batch_norm=True),
    "bst-short": lambda: rank_by(BST, make_fields(pool_history=False), heads=3, history_length=3, hidden=(8,)),
    "din": lambda: rank_by(DIN, make_fields(), hidden=(8, 4), attention_hidden=(6, 4), batch_norm=True),
    "eta": lambda: rank_by(ETA, make_fields(), nearest=4, recent=3, hidden=(8, 4), batch_norm=True),
    "eta-ties": lambda: rank_by(ETA, make_fields(pool_history=False), nearest=2, recent=1, bits=2, hidden=(8,)),
    "sdim": lambda: rank_by(SDIM, make_fields(), bits=12, recent=3, hidden=(8, 4), dropout=0.1, batch_norm=True),
    "foreign": lambda: rank_by_foreign(make_fields()),
    "din-softmax": lambda: rank_by(
        DIN,
        make_fields(pool_history=False),
        hidden=(8,),
        attention_hidden=(6,),
        attention_size=4,
        softmax=True,
    ),
}


@pytest.fixture(params=RANKERS)
def ranker(request: pytest.FixtureRequest) -> nn.Module:
    """In evaluation mode, float64."""
    torch.manual_seed(0)
    return RANKERS[request.param]().double().eval()


def make_query(queries: int, length: int = 6) -> Query:
    """Histories of all lengths; the first query has none, the second an unknown user."""
    generator = torch.Generator().manual_seed(queries)
    history = torch.randint(2, ITEMS, (queries, length), generator=generator)
    lengths = torch.randint(0, length + 1, (queries, 1), generator=generator)
    lengths[0] = 0
    history[torch.arange(length) < length - lengths] = PADDING
    user = torch.randint(2, USERS, (queries,), generator=generator)
    user[1:2] = UNKNOWN
    return Query(user, torch.full((queries,), -1), history, torch.arange(queries) + 1_000_000)


def make_items(queries: int, items: int) -> Tensor:
    """Distinct rows within a query."""
    generator = torch.Generator().manual_seed(items)
    return torch.stack([torch.randperm(ITEMS - 2, generator=generator)[:items] + 2 for _ in range(queries)])


def part_of(query: Query, rows: slice) -> Query:
    return Query(query.user[rows], query.event[rows], query.history[rows], query.time[rows])


@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize("items", [1, 300])
def test_shape_and_finite(ranker: nn.Module, queries: int, items: int) -> None:
    with torch.no_grad():
        logits = ranker(make_query(queries), make_items(queries, items))
    assert logits.shape == (queries, items)
    assert logits.dtype == torch.float64
    assert logits.isfinite().all()


def test_no_queries_give_no_logits_and_train(ranker: nn.Module) -> None:
    """A worker's share of a small batch may be empty."""
    nobody = part_of(make_query(2), slice(0, 0))
    for query in (nobody, nobody.recent(0)):
        logits = ranker.train()(query, make_items(2, 4)[:0])
        assert logits.shape == (0, 4)
        logits.sum().backward()


def test_logits_move_with_their_items(ranker: nn.Module) -> None:
    query, items = make_query(5), make_items(5, 12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ranker(query, items[:, order]), ranker(query, items)[:, order], rtol=0, atol=1e-12)


def test_a_logit_does_not_depend_on_the_other_items(ranker: nn.Module) -> None:
    query, items = make_query(5), make_items(5, 12)
    other = items.clone()
    other[:, 1:] = items[:, 1:].roll(1, dims=0)
    other[:, -1] = PADDING
    torch.testing.assert_close(ranker(query, items)[:, 0], ranker(query, other)[:, 0], rtol=0, atol=1e-12)
    alone = torch.cat([ranker(query, items[:, n : n + 1]) for n in range(12)], dim=1)
    torch.testing.assert_close(ranker(query, items), alone, rtol=0, atol=1e-12)


def test_a_batch_of_one_equals_its_row(ranker: nn.Module) -> None:
    query, items = make_query(5), make_items(5, 12)
    whole = ranker(query, items)
    for b in range(5):
        single = ranker(part_of(query, slice(b, b + 1)), items[b : b + 1])
        torch.testing.assert_close(single, whole[b : b + 1], rtol=0, atol=1e-12)


def test_it_personalises_or_says_so(ranker: nn.Module, request: pytest.FixtureRequest) -> None:
    query, items = make_query(5), make_items(1, 12).expand(5, -1)
    logits = ranker(query, items)
    centred = logits - logits.mean(1, keepdim=True)
    same = torch.allclose(centred[2], centred[3], atol=1e-9)
    assert same == (request.node.callspec.params["ranker"] in {"lr", "deepfm-no-context"})


def test_padding_and_unknown_items_and_users(ranker: nn.Module) -> None:
    query = make_query(3)
    query.user[2] = PADDING
    items = torch.tensor([[PADDING, UNKNOWN, 2]] * 3)
    assert ranker(query, items).isfinite().all()
    query.history[:] = UNKNOWN
    assert ranker(query, items).isfinite().all()


def test_more_padding_changes_nothing(ranker: nn.Module) -> None:
    query, items = make_query(5), make_items(5, 4)
    longer = torch.cat([torch.zeros(5, 9, dtype=torch.int64), query.history], dim=1)
    padded = Query(query.user, query.event, longer, query.time)
    torch.testing.assert_close(ranker(padded, items), ranker(query, items), rtol=0, atol=1e-12)
    none = Query(query.user, query.event, query.history[:, :0], query.time)
    empty = Query(query.user, query.event, torch.zeros_like(query.history), query.time)
    torch.testing.assert_close(ranker(none, items), ranker(empty, items), rtol=0, atol=1e-12)


class Watch(TorchDispatchMode):
    """Counts rows looked up and remembers the largest result that is not a view."""

    def __init__(self) -> None:
        super().__init__()
        self.looked_up = 0
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in {"embedding", "_embedding_bag", "_embedding_bag_forward_only"}:
            self.looked_up += args[1].numel()
        views = name in {"expand", "view", "_unsafe_view", "transpose", "slice", "select", "unsqueeze", "t"}
        if isinstance(result, Tensor) and not views:
            self.largest = max(self.largest, result.numel())
        return result


def watched(ranker: nn.Module, queries: int, items: int, length: int) -> Watch:
    query, rows = make_query(queries, length), make_items(queries, items)
    with torch.no_grad(), Watch() as watch:
        ranker(query, rows)
    return watch


def test_the_history_is_looked_up_once(ranker: nn.Module) -> None:
    """Look-ups have no term in N * L: what a longer history adds is the same for 2 items as for 60."""

    def added(items: int) -> int:
        return watched(ranker, 4, items, 40).looked_up - watched(ranker, 4, items, 8).looked_up

    assert abs(added(60) - added(2)) <= 4 * 32  # rows shared with the items are looked up together
    assert watched(ranker, 4, 60, 8).looked_up > 0


def test_the_history_is_never_copied_per_item(ranker: nn.Module) -> None:
    queries, items, length = 4, 100, 64
    copied = queries * items * length * ranker.fields.num_item_fields * ranker.fields.field_size
    assert watched(ranker, queries, items, length).largest < copied / 2 or ranker.fields.field_size == 1


def test_every_parameter_gets_a_finite_gradient(ranker: nn.Module) -> None:
    ranker.train()
    query, items = make_query(20), make_items(20, 30)
    logits = ranker(query, items)
    loss = (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))).sum()
    loss.backward()
    used = {"fields.users"} if "user.id" not in ranker.fields.context_names else set()
    for name, parameter in ranker.named_parameters():
        if any(name.startswith(prefix) for prefix in used):
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0 or name.endswith("attention.output.bias"), name
        if name.endswith(("id.weight", "embedding.weight")):
            assert parameter.grad[PADDING].eq(0).all(), name


def test_one_example_trains(ranker: nn.Module) -> None:
    ranker.train()
    logits = ranker(make_query(1), make_items(1, 1))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in ranker.parameters())


def test_saved_weights_are_all_it_needs(request: pytest.FixtureRequest, ranker: nn.Module) -> None:
    twin = RANKERS[request.node.callspec.params["ranker"]]().double().eval()
    query, items = make_query(5), make_items(5, 12)
    twin.load_state_dict(ranker.state_dict())
    assert torch.equal(twin(query, items), ranker(query, items))
    assert all(value.is_floating_point() or "num_batches" in name for name, value in ranker.state_dict().items())
