"""check_retriever: what stage 1 owes its callers; for a causal one also that no position sees what comes after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from corral.data.batches import Query, SequenceBatch
from corral.data.features import FeatureTable
from corral.data.vocabulary import FIRST_ROW
from corral.retrieval.retriever import CausalRetriever, Retriever
from corral.testing.requirement import require, require_close
from corral.testing.small_world import one_query, small_features, small_queries, with_history

USERS, ITEMS, LENGTH = 20, 50, 7

# As ``corral.TwoStage(..., retriever=...)`` takes it: features by user row and by item row, to a module.
MakeRetriever = Callable[[FeatureTable, FeatureTable], nn.Module]


def small_retriever(make: MakeRetriever) -> Any:
    """In evaluation mode, float64, with every weight random: zeros (an empty query) would hide mistakes."""
    torch.manual_seed(0)
    model = make(small_features(USERS, "user_id"), small_features(ITEMS, "item_id")).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def queries(count: int) -> Query:
    """B queries over the small tables."""
    return small_queries(count, users=USERS, items=ITEMS, length=LENGTH)


def sequences(history: Tensor) -> SequenceBatch:
    """Histories [B, L] as whole sequences, every slot a target."""
    slots = torch.arange(history.shape[1]).expand_as(history)
    return SequenceBatch(torch.full((len(history),), 2), history, slots, slots, slots, history != 0)


@torch.no_grad()
def shapes(retriever: Any) -> None:
    """One finite vector for each query and each item row, padding and unknown too, of one size."""
    require(isinstance(retriever, Retriever), "a retriever has encode_queries and encode_items")
    items = torch.arange(ITEMS)
    vectors = retriever.encode_items(items)
    require(vectors.dim() == 2 and len(vectors) == ITEMS, f"encode_items([{ITEMS}]) gives [{ITEMS}, D]")
    size = vectors.shape[-1]
    require(vectors.isfinite().all(), "item vectors are finite, those of rows 0 (padding) and 1 (unknown) too")
    cube = retriever.encode_items(items[:24].view(2, 3, 4))
    require(cube.shape == (2, 3, 4, size), "encode_items takes item rows of any shape [...] and gives [..., D]")
    require_close(cube, vectors[:24].view(2, 3, 4, size), "an item has one vector, in whatever shape it is asked")
    for count in (1, 6):
        found = retriever.encode_queries(queries(count))
        require(found.shape == (count, size), f"encode_queries of {count} queries gives [{count}, {size}]")
        require(found.isfinite().all(), "query vectors are finite, without a history and for the unknown user too")


@torch.no_grad()
def deterministic_in_evaluation(retriever: Any) -> None:
    """In evaluation mode the same question has the same answer, bit for bit."""
    query = queries(6)
    same = torch.equal(retriever.encode_queries(query), retriever.encode_queries(query))
    require(same, "in evaluation mode a query has one vector: is there dropout that ignores eval()?")
    same = torch.equal(retriever.encode_items(query.history), retriever.encode_items(query.history))
    require(same, "in evaluation mode an item has one vector: is there dropout that ignores eval()?")


@torch.no_grad()
def a_batch_of_one_equals_its_row(retriever: Any) -> None:
    """No query depends on the others of its batch."""
    query = queries(9)
    whole = retriever.encode_queries(query)
    for row in range(9):
        alone = retriever.encode_queries(one_query(query, row))
        require_close(alone[0], whole[row], "a query's vector does not depend on the other queries of its batch")


@torch.no_grad()
def padding_in_front_changes_nothing(retriever: Any) -> None:
    """Histories come padded in front, to whatever length."""
    query = queries(9)
    more = with_history(query, torch.cat([torch.zeros(9, 5, dtype=torch.int64), query.history], 1))
    promise = "more padding (row 0) in front of a history changes nothing"
    require_close(retriever.encode_queries(more), retriever.encode_queries(query), promise)


@torch.no_grad()
def no_history_at_all(retriever: Any) -> None:
    """Whether the history has no columns or only padding."""
    query = queries(4)
    answers = [
        retriever.encode_queries(with_history(query, torch.zeros(4, width, dtype=torch.int64)))
        for width in (0, 1, LENGTH)
    ]
    require(answers[0].isfinite().all(), "a query without a history has a finite vector")
    for answer in answers[1:]:
        require_close(answer, answers[0], "a history of no columns [B, 0] is the same as one of padding alone")


def training_reaches_every_weight(retriever: Any) -> None:
    """One step of gradients, for queries with and without a history."""
    if not list(retriever.parameters()):
        return
    retriever.train()
    scores = retriever.encode_queries(queries(64)) @ retriever.encode_items(torch.arange(FIRST_ROW, ITEMS)).T
    scores.logsumexp(1).sum().backward()
    missing = [name for name, parameter in retriever.named_parameters() if parameter.grad is None]
    require(not missing, f"training reaches every weight, but not {', '.join(missing)}")


@torch.no_grad()
def positions_are_the_queries_of_the_prefixes(causal: Any) -> None:
    """``encode_positions`` is a faster way to ask ``encode_queries`` of every prefix."""
    query = queries(9)
    positions = causal.encode_positions(sequences(query.history))
    require(positions.shape[:2] == (9, LENGTH + 1), "encode_positions of [B, L] slots gives [B, L + 1, D]")
    for j in range(LENGTH + 1):
        prefix = causal.encode_queries(with_history(query, query.history[:, :j]))
        require_close(positions[:, j], prefix, f"position {j} is the query of the first {j} slots", atol=1e-10)


@torch.no_grad()
def no_position_sees_what_comes_after_it(causal: Any) -> None:
    """Changing an item changes the positions behind it, and none before: else training sees its own answer."""
    history = queries(9).history
    positions = causal.encode_positions(sequences(history))
    for slot in range(LENGTH):
        other = history.clone()
        moved = (history[:, slot] + 7 - FIRST_ROW) % (ITEMS - FIRST_ROW) + FIRST_ROW
        other[:, slot] = torch.where(history[:, slot] != 0, moved, 0)
        changed = causal.encode_positions(sequences(other))
        same = torch.equal(changed[:, : slot + 1], positions[:, : slot + 1])
        require(same, f"an item in slot {slot} changes a position that has not seen it: the model looks ahead")
        real = history[:, slot] != 0
        reached = (changed[real, slot + 1] != positions[real, slot + 1]).any(1).all()
        require(reached, f"an item in slot {slot} changes the position right behind it")


CHECKS: tuple[Callable[[Any], None], ...] = (
    shapes,
    deterministic_in_evaluation,
    a_batch_of_one_equals_its_row,
    padding_in_front_changes_nothing,
    no_history_at_all,
    training_reaches_every_weight,
)
CAUSAL_CHECKS: tuple[Callable[[Any], None], ...] = (
    positions_are_the_queries_of_the_prefixes,
    no_position_sees_what_comes_after_it,
)


def check_retriever(make: MakeRetriever) -> None:
    """All checks, each on a new instance.

    Args:
        make: as ``corral.TwoStage(..., retriever=...)`` takes it; its histories are at most 7 items long here.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    causal = isinstance(small_retriever(make), CausalRetriever)
    for check in (*CHECKS, *(CAUSAL_CHECKS if causal else ())):
        check(small_retriever(make))
