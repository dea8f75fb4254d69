"""The CTR models on planted worlds: each finds what its interaction can express, where simpler ones stay at chance.

Labels are without noise, so that a model which can express them may reach an AUC of 1; whatever cannot is at .5 or,
where it learns the surplus of the train rows, below. An MLP beside the interaction is left out where it can be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

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
from corral.ranking.ctr.lr import LR
from corral.ranking.ctr.masknet import MaskNet
from corral.ranking.ctr.sdim import SDIM
from corral.ranking.ctr.xdeepfm import XDeepFM
from corral.ranking.history_pooling import mean_pooling

SIZE, VALUES = 8, 16
CHANCE, FOUND = 0.55, 0.85

Build = Callable[[int, int, int], nn.Module]


@dataclass(frozen=True)
class World:
    """Rows of codes: context [R, Fc], item [R, Fi], history [R, L, Fh] in the first Fh item fields; label [R]."""

    context: Tensor
    item: Tensor
    history: Tensor
    label: Tensor
    held_out: Tensor

    def rows(self, held_out: bool) -> Tensor:
        return (self.held_out == held_out).nonzero().squeeze(1)


class Embedded(nn.Module):
    """A table for each field, the history in those of the first item fields, then the model; a row is one item.

    Where there is a history, its mean is in the context too, as in the fields of a ranker.
    """

    def __init__(self, build: Build, world: World) -> None:
        super().__init__()
        self.split, self.num_history_fields = world.context.shape[1], world.history.shape[2]
        size = 1 if build is lr else SIZE
        fields = self.split + world.item.shape[1]
        self.tables = nn.ModuleList(nn.Embedding(VALUES, size) for _ in range(fields))
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.2)
        self.pool = world.history.shape[1] > 0
        self.ctr = build(size, self.split + self.pool * self.num_history_fields, world.item.shape[1])

    def forward(self, world: World, rows: Tensor) -> Tensor:
        tables, split = list(self.tables), self.split
        context = self._embedded(tables[:split], world.context[rows])
        items = self._embedded(tables[split:], world.item[rows])
        history = self._embedded(tables[split : split + self.num_history_fields], world.history[rows])
        mask = torch.ones(history.shape[:2], dtype=torch.bool)
        if self.pool:
            context = torch.cat([context, mean_pooling(history, mask)], dim=1)
        return self.ctr(FieldVectors(context.unsqueeze(1), items.unsqueeze(1)), history, mask).squeeze(1)

    @staticmethod
    def _embedded(tables: list[nn.Module], codes: Tensor) -> Tensor:
        vectors = [table(column) for table, column in zip(tables, codes.unbind(-1), strict=True)]
        return torch.stack(vectors, dim=-2)


def held_out_auc(build: Build, world: World) -> float:
    torch.manual_seed(0)
    model = Embedded(build, world)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    train, test = world.rows(False), world.rows(True)
    for _ in range(20):
        for rows in train[torch.randperm(len(train))].split(128):
            loss = functional.binary_cross_entropy_with_logits(model(world, rows), world.label[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        logits, labels = model.eval()(world, test), world.label[test]
    gap = logits[labels > 0.5].unsqueeze(1) - logits[labels < 0.5].unsqueeze(0)
    return float(((gap > 0).double() + 0.5 * (gap == 0).double()).mean())


def without_history(context: Tensor, item: Tensor, label: Tensor) -> World:
    history = torch.zeros(len(label), 0, 1, dtype=torch.int64)
    held_out = torch.rand(len(label), generator=torch.Generator().manual_seed(1)) < 0.3
    return World(context, item, history, label.float(), held_out)


def all_codes(fields: int) -> Tensor:
    return torch.cartesian_prod(*[torch.arange(VALUES)] * fields)


@cache
def additive_world() -> World:
    """Click: the sum of one number a code is positive."""
    numbers, codes = torch.randn(3, VALUES, generator=torch.Generator().manual_seed(5)), all_codes(3)
    total = sum(numbers[field, codes[:, field]] for field in range(3))
    return without_history(codes[:, :1], codes[:, 1:], total > 0)


@cache
def inner_product_world() -> World:
    """Click: the latent vectors of the first two codes have a positive inner product.

    Each latent vector comes with its opposite, so that no code says anything alone.
    """
    half = torch.randn(2, VALUES // 2, 3, generator=torch.Generator().manual_seed(2))
    latent, codes = torch.cat([half, -half], dim=1), all_codes(3)
    return without_history(codes[:, :1], codes[:, 1:], (latent[0] @ latent[1].T)[codes[:, 0], codes[:, 1]] > 0)


@cache
def third_parity_world() -> World:
    """Click: the sum of three codes is odd. No two of them say anything."""
    codes = all_codes(3)
    return without_history(codes[:, :1], codes[:, 1:], codes.sum(1) % 2)


@cache
def lookup_world() -> World:
    """Every history has all six keys, three of them with an odd second code; click: odd beside the item's key.

    The means of a history's fields are the same for all: only which code stands beside which key says something.
    """
    rows, keys = 4000, 6
    generator = torch.Generator().manual_seed(3)
    odd = torch.rand(rows, keys, generator=generator).argsort(1) < keys // 2
    codes = 2 * torch.randint(VALUES // 2, (rows, keys), generator=generator) + odd
    order = torch.rand(rows, keys, generator=generator).argsort(1)
    history = torch.stack([order, codes.gather(1, order)], dim=2)
    asked = torch.randint(keys, (rows, 1), generator=generator)
    item = torch.cat([asked, torch.randint(VALUES, (rows, 1), generator=generator)], dim=1)
    return World(
        torch.randint(VALUES, (rows, 1), generator=generator),
        item,
        history,
        odd.gather(1, asked).squeeze(1).float(),
        torch.rand(rows, generator=generator) < 0.4,
    )


@cache
def latest_world() -> World:
    """Click: of the latest item of the history and the candidate just one has an odd code.

    Each history has two odd and two even codes in random order: as a set it says nothing.
    """
    rows, length = 4000, 4
    generator = torch.Generator().manual_seed(4)
    odd = torch.rand(rows, length, generator=generator).argsort(1) < length // 2
    history = 2 * torch.randint(2, (rows, length), generator=generator) + odd
    item = torch.randint(4, (rows, 1), generator=generator)
    return World(
        torch.randint(VALUES, (rows, 1), generator=generator),
        item,
        history.unsqueeze(2),
        ((history[:, -1] + item[:, 0]) % 2).float(),
        torch.rand(rows, generator=generator) < 0.4,
    )


@cache
def recency_world() -> World:
    """The candidate is always one of the history's four items; click: one of the latest two."""
    rows, length = 4000, 4
    generator = torch.Generator().manual_seed(4)
    history = torch.rand(rows, VALUES, generator=generator).argsort(1)[:, :length]
    slot = torch.randint(length, (rows, 1), generator=generator)
    return World(
        torch.randint(VALUES, (rows, 1), generator=generator),
        history.gather(1, slot),
        history.unsqueeze(2),
        (slot.squeeze(1) >= length // 2).float(),
        torch.rand(rows, generator=generator) < 0.4,
    )


def lr(size: int, context: int, items: int) -> LR:
    return LR(1, context, items)


def fm(size: int, context: int, items: int) -> FM:
    return FM(size, context, items)


def deepfm(size: int, context: int, items: int) -> DeepFM:
    return DeepFM(size, context, items, hidden=(32, 16))


def cross_network(size: int, context: int, items: int) -> DCNV2:
    return DCNV2(size, context, items, hidden=())


def attention_alone(size: int, context: int, items: int) -> AutoInt:
    return AutoInt(size, context, items, attention_size=8, hidden=())


def fibinet(size: int, context: int, items: int) -> FiBiNET:
    return FiBiNET(size, context, items, hidden=(16,))


def cin_alone(size: int, context: int, items: int) -> XDeepFM:
    return XDeepFM(size, context, items, cin=(8, 8), hidden=())


def one_cin_layer(size: int, context: int, items: int) -> XDeepFM:
    return XDeepFM(size, context, items, cin=(8,), hidden=())


def masks_in_parallel(size: int, context: int, items: int) -> MaskNet:
    return MaskNet(size, context, items, block_size=16, hidden=(16,))


def masks_in_a_row(size: int, context: int, items: int) -> MaskNet:
    return MaskNet(size, context, items, block_size=16, parallel=False)


def finalmlp(size: int, context: int, items: int) -> FinalMLP:
    return FinalMLP(size, context, items, hidden=(16,), heads=2)


def din(size: int, context: int, items: int) -> DIN:
    return DIN(size, context, items, num_history_fields=min(items, 2), attention_hidden=(16, 8), hidden=(32,))


def dien(size: int, context: int, items: int) -> DIEN:
    return DIEN(size, context, items, state_size=16, hidden=(32,))


def bst(size: int, context: int, items: int) -> BST:
    return BST(size, context, items, heads=2, history_length=6, hidden=(32,))


def eta(size: int, context: int, items: int) -> ETA:
    return ETA(size, context, items, nearest=3, recent=1, attention_hidden=(16, 8), hidden=(32,))


def sdim(size: int, context: int, items: int) -> SDIM:
    return SDIM(size, context, items, bits=96, recent=1, hidden=(32, 16))


FOUND_BY: list[tuple[Callable[[], World], Build]] = [
    (additive_world, lr),
    (inner_product_world, fm),
    (inner_product_world, deepfm),
    *((third_parity_world, build) for build in (deepfm, cross_network, attention_alone, fibinet, cin_alone)),
    *((third_parity_world, build) for build in (masks_in_parallel, masks_in_a_row, finalmlp)),
    *((lookup_world, build) for build in (din, bst, eta, sdim)),
    *((latest_world, build) for build in (dien, bst)),
    *((recency_world, build) for build in (dien, bst)),
]
HIDDEN_FROM: list[tuple[Callable[[], World], Build]] = [
    *((world, lr) for world in (inner_product_world, third_parity_world, lookup_world, latest_world, recency_world)),
    *((third_parity_world, build) for build in (fm, one_cin_layer)),
    # With the mean of the history among its fields.
    *((world, deepfm) for world in (lookup_world, latest_world, recency_world)),
    *((world, din) for world in (latest_world, recency_world)),
]


def name(argument: Callable[..., object]) -> str:
    return argument.__name__


@pytest.mark.parametrize(("world", "build"), FOUND_BY, ids=name)
def test_found_by_the_model_that_can_express_it(world: Callable[[], World], build: Build) -> None:
    assert held_out_auc(build, world()) >= FOUND


@pytest.mark.parametrize(("world", "build"), HIDDEN_FROM, ids=name)
def test_hidden_from_models_that_cannot(world: Callable[[], World], build: Build) -> None:
    assert held_out_auc(build, world()) <= CHANCE
