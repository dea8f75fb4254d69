"""What every ranker owes its callers. A new ranker joins by one line in ``RANKERS``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from corral.data.batches import Query
from corral.data.vocabulary import PADDING
from corral.ranking.ctr.autoint import AutoInt
from corral.ranking.ctr.bst import BST
from corral.ranking.ctr.ctr_model import FieldVectors
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
from corral.testing.ctr_models import check_ctr_model, dense_inputs, masked_slots_count_for_nothing
from corral.testing.rankers import (
    CHECKS,
    ITEMS,
    USERS,
    check_ranker,
    gradients,
    items_of,
    queries,
    saved_weights_are_all_it_needs,
    small_ranker,
)
from corral.testing.small_world import one_query, seeded, small_features

SIZE = 8
USER_FEATURES, ITEM_FEATURES = small_features(USERS, "user_id"), small_features(ITEMS, "item_id")


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


def prepared(name: str) -> Any:
    return small_ranker(lambda users, items: RANKERS[name]())


@pytest.fixture(params=RANKERS)
def ranker(request: pytest.FixtureRequest) -> Any:
    """In evaluation mode, float64."""
    return prepared(request.param)


def reads_users(ranker: Any) -> bool:
    return "user.id" in ranker.fields.context_names


@pytest.mark.parametrize("name", RANKERS)
@pytest.mark.parametrize("check", CHECKS)
def test_contract(check: Callable[[Any], None], name: str) -> None:
    ranker = prepared(name)
    if check is gradients and not reads_users(ranker):
        ranker.fields.users.requires_grad_(False)  # nobody asks it
        check(Trained(ranker))
        return
    check(ranker)


def test_no_queries_give_no_logits_and_train(ranker: Any) -> None:
    """A worker's share of a small batch may be empty."""
    nobody = one_query(queries(1), -1)
    for query in (nobody, nobody.recent(0)):
        logits = ranker.train()(query, items_of(1, 4)[:0])
        assert logits.shape == (0, 4)
        logits.sum().backward()


class Trained(nn.Module):
    """A ranker without the weights that are not trained."""

    def __init__(self, ranker: nn.Module) -> None:
        super().__init__()
        self.ask = lambda *given: ranker(*given)
        self.own = nn.ParameterList(one for one in ranker.parameters() if one.requires_grad)

    def forward(self, query: Query, items: Tensor) -> Tensor:
        return self.ask(query, items)


@pytest.mark.parametrize("name", RANKERS)
def test_saved_weights(name: str) -> None:
    saved_weights_are_all_it_needs(lambda users, items: RANKERS[name]())
    state = RANKERS[name]().state_dict()
    assert all(value.is_floating_point() or "num_batches" in name for name, value in state.items())


CTR_MODELS: dict[str, tuple[Callable[..., Any], int]] = {
    "lr": (LR, 1),
    "fm": (FM, SIZE),
    "deepfm": (partial(DeepFM, hidden=(8, 4)), SIZE),
    "dcnv2": (partial(DCNV2, hidden=(8, 4)), SIZE),
    "autoint": (partial(AutoInt, hidden=(8, 4)), SIZE),
    "fibinet": (partial(FiBiNET, hidden=(8, 4)), SIZE),
    "xdeepfm": (partial(XDeepFM, cin=(4, 3), hidden=(8, 4)), SIZE),
    "masknet": (partial(MaskNet, block_size=6, hidden=(8, 4)), SIZE),
    "finalmlp": (partial(FinalMLP, hidden=(8, 4)), SIZE),
    "din": (partial(DIN, hidden=(8, 4)), SIZE),
    "dien": (partial(DIEN, hidden=(8, 4)), SIZE),
    "bst": (partial(BST, hidden=(8, 4)), SIZE),
    "eta": (partial(ETA, hidden=(8, 4)), SIZE),
    "sdim": (partial(SDIM, hidden=(8, 4)), SIZE),
}


@pytest.mark.parametrize("name", CTR_MODELS)
@pytest.mark.parametrize("check", [dense_inputs, masked_slots_count_for_nothing])
def test_contract_of_ctr_models(check: Callable[..., None], name: str) -> None:
    make, size = CTR_MODELS[name]
    check(make, size)


def test_all_checks_in_one_call() -> None:
    check_ctr_model(partial(DIN, hidden=(8, 4)))


def test_it_personalises_or_says_so(ranker: Any, request: pytest.FixtureRequest) -> None:
    query, items = queries(5), items_of(1, 12).expand(5, -1)
    logits = ranker(query, items)
    centred = logits - logits.mean(1, keepdim=True)
    same = torch.allclose(centred[2], centred[3], atol=1e-9)
    assert same == (request.node.callspec.params["ranker"] in {"lr", "deepfm-no-context"})


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


def watched(ranker: nn.Module, count: int, items: int, length: int) -> Watch:
    query, rows = queries(count, length), items_of(count, items)
    with torch.no_grad(), Watch() as watch:
        ranker(query, rows)
    return watch


def test_the_history_is_looked_up_once(ranker: Any) -> None:
    """Look-ups have no term in N * L: what a longer history adds is the same for 2 items as for 60."""

    def added(items: int) -> int:
        return watched(ranker, 4, items, 40).looked_up - watched(ranker, 4, items, 8).looked_up

    assert abs(added(60) - added(2)) <= 4 * 32  # rows shared with the items are looked up together
    assert watched(ranker, 4, 60, 8).looked_up > 0


def test_the_history_is_never_copied_per_item(ranker: Any) -> None:
    count, items, length = 4, 100, 64
    copied = count * items * length * ranker.fields.num_item_fields * ranker.fields.field_size
    assert watched(ranker, count, items, length).largest < copied / 2 or ranker.fields.field_size == 1


def test_gradients_reach_every_weight_but_padding(ranker: Any) -> None:
    ranker.train()
    logits = ranker(queries(20), items_of(20, 30))
    (logits * torch.randn(logits.shape, generator=seeded(1))).sum().backward()
    for name, parameter in ranker.named_parameters():
        if name.startswith("fields.users") and not reads_users(ranker):
            continue
        assert parameter.grad.abs().sum() > 0 or name.endswith("attention.output.bias"), name
        if name.endswith(("id.weight", "embedding.weight")):
            assert parameter.grad[PADDING].eq(0).all(), name


class Wrong(nn.Module):
    """The candidate against the last item, with something broken in it; the checks must notice."""

    def __init__(self, items: int, fault: str) -> None:
        super().__init__()
        self.fault, self.table = fault, nn.Embedding(items, SIZE)
        self.hidden = torch.randn(SIZE, dtype=torch.float64) if fault == "a loose tensor" else torch.ones(SIZE)

    def forward(self, query: Query, items: Tensor) -> Tensor:
        history = query.history if query.history.shape[1] else query.history.new_zeros(len(query), 1)
        mask = history != 0
        if self.fault == "reads the padding":
            mask = torch.ones_like(mask)
        past = (self.table(history) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        logits = torch.einsum("bd,bnd->bn", past * self.hidden, self.table(items))
        if self.fault == "normalises the list":
            return logits - logits.mean(1, keepdim=True)
        if self.fault == "normalises over the batch":
            return logits - logits.mean()
        if self.fault == "position bias":
            return logits + torch.arange(items.shape[1])
        return logits.log() if self.fault == "not finite" else logits


@pytest.mark.parametrize(
    ("fault", "promise"),
    [
        ("reads the padding", "padding"),
        ("normalises the list", "never on the other items of the list"),
        ("normalises over the batch", "on the other items of the list"),
        ("position bias", "another order keep their logits"),
        ("not finite", "finite floating"),
        ("a loose tensor", "no buffer"),
    ],
)
def test_the_checks_reject_a_wrong_ranker(fault: str, promise: str) -> None:
    check_ranker(lambda users, items: Wrong(items.rows, ""))
    with pytest.raises(AssertionError, match=promise):
        check_ranker(lambda users, items: Wrong(items.rows, fault))


class WrongCtr(nn.Module):
    """A linear CTR model with something broken in it."""

    uses_history = True

    def __init__(self, field_size: int, context: int, item: int, *, fault: str, num_extra: int = 0) -> None:
        super().__init__()
        self.fault, self.weight, self.num_extra = fault, nn.Linear(field_size, 1), num_extra
        self.extra = nn.Linear(num_extra, 1) if num_extra else None

    def forward(self, fields: FieldVectors, history: Tensor, mask: Tensor, extra: Tensor | None = None) -> Tensor:
        shown = history.sum(2) if self.fault == "ignores the mask" else history.sum(2) * mask[..., None]
        logits = self.weight(fields.items.sum(2) * (fields.context.sum(2) + shown.sum(1)[:, None])).squeeze(-1)
        if self.extra is None or extra is None or self.fault == "ignores dense inputs":
            return logits
        return logits + self.extra(extra).squeeze(-1)


@pytest.mark.parametrize(
    ("fault", "promise"),
    [
        ("ignores the mask", "mask is False count for nothing"),
        ("ignores dense inputs", r"dense input 0 of 3 \(num_extra\) changes no logit"),
    ],
)
def test_the_checks_reject_a_wrong_ctr_model(fault: str, promise: str) -> None:
    check_ctr_model(partial(WrongCtr, fault=""))
    with pytest.raises(AssertionError, match=promise):
        check_ctr_model(partial(WrongCtr, fault=fault))
