"""What every recall channel owes its callers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from corral.data.batches import Query
from corral.data.candidates import Candidates
from corral.retrieval.channels import ColdStartChannel, MergedChannel, RetrieverChannel
from corral.retrieval.co_visitation import CoVisitation, count_pairs
from corral.retrieval.co_visitation_channel import CoVisitationChannel
from corral.retrieval.index import ExactIndex
from corral.retrieval.list_channel import ListChannel
from corral.retrieval.matrix_factorization import MatrixFactorization
from corral.retrieval.popularity import PopularityChannel
from corral.testing.channels import CHECKS, ITEMS, USERS, check_recall_channel, queries
from corral.testing.small_world import seeded

EVENTS = torch.randint(2, ITEMS, (USERS, 12), generator=seeded(1))


def popularity() -> PopularityChannel:
    return PopularityChannel(torch.bincount(EVENTS[2:].flatten(), minlength=ITEMS))


def retriever() -> RetrieverChannel:
    torch.manual_seed(0)
    model = MatrixFactorization(USERS, ITEMS, size=4).eval()
    items = torch.arange(2, ITEMS)
    return RetrieverChannel(model, ExactIndex(model.encode_items(items), items))


def co_visitation() -> CoVisitationChannel:
    flat, owner = EVENTS.numpy().flatten(), np.repeat(np.arange(USERS), EVENTS.shape[1])
    key, weight = count_pairs(flat, owner, ITEMS, 3)
    offsets = np.arange(USERS + 1) * EVENTS.shape[1]
    parts = (key // ITEMS, key % ITEMS, weight, flat, offsets)
    return CoVisitationChannel(CoVisitation(*map(torch.from_numpy, parts), num_items=ITEMS, window=3))


def lists() -> ListChannel:
    chosen = [torch.randperm(ITEMS - 2, generator=seeded(user))[: user % 15].numpy() + 2 for user in range(USERS)]
    return ListChannel(np.concatenate(chosen), np.cumsum([0, *map(len, chosen)]))


CHANNELS: dict[str, Callable[[], Any]] = {
    "popularity": popularity,
    "retriever": retriever,
    "cold start": lambda: ColdStartChannel(retriever(), popularity()),
    "co-visitation": co_visitation,
    "lists": lists,
    "merged": lambda: MergedChannel([retriever(), popularity(), lists()]),
}


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("check", CHECKS)
@torch.no_grad()
def test_contract(check: Callable[[Any], None], name: str) -> None:
    check(CHANNELS[name]())


def test_all_checks_in_one_call() -> None:
    check_recall_channel(popularity())


class Wrong:
    """Popularity with something broken in it; the checks must notice."""

    name = "wrong"

    def __init__(self, fault: str) -> None:
        self.fault, self.right = fault, popularity()

    def recall(self, query: Query, k: int, exclude: Tensor | None = None, allow: Tensor | None = None) -> Candidates:
        if self.fault == "filters afterwards" and exclude is not None and exclude.shape[1]:
            found = self.right.recall(query, k, None, allow)
            hidden = (found.items[:, :, None] == exclude[:, None, :]).any(2)
            return Candidates(found.items.masked_fill(hidden, 0), found.scores.masked_fill(hidden, -torch.inf))
        found = self.right.recall(query, k, exclude, None if self.fault == "ignores allow" else allow)
        items, scores = found.items.clone(), found.scores.clone()
        if self.fault == "an item twice" and k > 3:
            items[:, 1] = items[:, 0]
        if self.fault == "padding has a score":
            scores[items == 0] = 0.0
        if self.fault == "short":
            return Candidates(items[:, :5], scores[:, :5])
        if self.fault == "worst first":
            return Candidates(items.flip(1), scores.flip(1))
        return Candidates(items, scores)


@pytest.mark.parametrize(
    ("fault", "promise"),
    [
        ("filters afterwards", "k items while there are so many"),
        ("ignores allow", "never come back"),
        ("an item twice", "no item stands twice"),
        ("padding has a score", "scores are -inf where there is no item"),
        ("short", "k=10 gives lists"),
        ("worst first", "scores fall along the list"),
    ],
)
def test_the_checks_reject_a_wrong_channel(fault: str, promise: str) -> None:
    check_recall_channel(Wrong(""))
    with pytest.raises(AssertionError, match=promise):
        check_recall_channel(Wrong(fault))


def test_the_queries_hold_what_is_hard() -> None:
    query = queries(6)
    assert query.user[1] == 1
    assert not query.history[0].any()
    assert query.history.any(1).sum() >= 3
