"""Shared by the tests of stage 2: small random inputs, layers in plain loops, planted worlds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from corral.data.batches import Query
from corral.ranking.ctr.ctr_model import FieldVectors
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def vectors() -> Callable[..., tuple[FieldVectors, Tensor, Tensor]]:
    """A maker of random float64 (fields, history, mask); the last query has no history."""

    def make(
        field_size: int = 5,
        num_context: int = 2,
        num_items: int = 3,
        queries: int = 4,
        items: int = 6,
        length: int = 7,
    ) -> tuple[FieldVectors, Tensor, Tensor]:
        fields = FieldVectors(
            torch.randn(queries, 1, num_context, field_size, dtype=torch.float64),
            torch.randn(queries, items, num_items, field_size, dtype=torch.float64),
        )
        history = torch.randn(queries, length, num_items, field_size, dtype=torch.float64)
        mask = torch.rand(queries, length) < 0.6
        mask[-1] = False
        return fields, history, mask

    return make


@pytest.fixture
def loop_mlp() -> Callable[[nn.ModuleList, np.ndarray], np.ndarray]:
    """Linear and ReLU, again and again, of one row: the plain form of ``SplitMlp``."""

    def run(layers: nn.ModuleList, row: np.ndarray) -> np.ndarray:
        for layer in layers:
            weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()  # type: ignore[operator]
            row = np.maximum(weight @ row + bias, 0.0)
        return row

    return run


def area_under_curve(logits: Tensor, labels: Tensor) -> float:
    """Share of (positive, negative) pairs in the right order; a tie counts a half."""
    positive, negative = logits[labels > 0.5], logits[labels <= 0.5]
    gap = positive.unsqueeze(1) - negative.unsqueeze(0)
    return float(((gap > 0).double() + 0.5 * (gap == 0).double()).mean())


@pytest.fixture
def exclusive_or() -> Callable[[Callable[[Fields], nn.Module], int], float]:
    """Trains a CTR model where a click is (group of the user) xor (group of the item); held-out AUC.

    Each side alone says nothing: whatever adds up what it knows of user and item stays at one half.
    """

    def run(build: Callable[[Fields], nn.Module], field_size: int) -> float:
        count = 40
        fields = Fields(count + 2, count + 2, field_size=field_size, pool_history=False, embedding_std=0.1)
        ranker = FieldRanker(fields, build(fields))  # type: ignore[arg-type]
        user = torch.arange(count).repeat_interleave(count)
        item = torch.arange(count).repeat(count)
        label = ((user % 2) != (item % 2)).float()
        held_out = torch.rand(len(user)) < 0.3
        nothing = torch.zeros(len(user), dtype=torch.int64)

        def logits(chosen: Tensor) -> Tensor:
            query = Query(user[chosen] + 2, nothing[chosen], nothing[chosen].unsqueeze(1), nothing[chosen])
            return ranker(query, item[chosen].unsqueeze(1) + 2).squeeze(1)

        optimizer = torch.optim.Adam(ranker.parameters(), lr=0.02)
        train = (~held_out).nonzero().squeeze(1)
        for _ in range(12):
            for chosen in train[torch.randperm(len(train))].split(64):
                loss = nn.functional.binary_cross_entropy_with_logits(logits(chosen), label[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            return area_under_curve(logits(held_out.nonzero().squeeze(1)), label[held_out])

    return run


@pytest.fixture
def match_in_history() -> Callable[[Callable[[Fields], nn.Module], int], float]:
    """Trains a CTR model where a click is: the item is one of the history; AUC on fresh queries.

    Items and histories are uniform, so neither side says anything alone.
    """

    def run(build: Callable[[Fields], nn.Module], field_size: int) -> float:
        catalogue, length, items = 24, 6, 8
        fields = Fields(3, catalogue + 2, field_size=field_size, pool_history=False, embedding_std=0.3)
        ranker = FieldRanker(fields, build(fields))  # type: ignore[arg-type]

        def draw(queries: int) -> tuple[Query, Tensor, Tensor]:
            history = torch.rand(queries, catalogue).argsort(1)[:, :length] + 2
            other = torch.randint(2, catalogue + 2, (queries, items // 2))
            own = history.gather(1, torch.randint(0, length, (queries, items // 2)))
            asked = torch.cat([own, other], dim=1)
            user = torch.full((queries,), 2)
            label = (asked.unsqueeze(2) == history.unsqueeze(1)).any(2).float()
            return Query(user, user, history, user), asked, label

        optimizer = torch.optim.Adam(ranker.parameters(), lr=0.01)
        for _ in range(250):
            query, asked, label = draw(64)
            loss = nn.functional.binary_cross_entropy_with_logits(ranker(query, asked), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            query, asked, label = draw(200)
            return area_under_curve(ranker(query, asked).flatten(), label.flatten())

    return run
