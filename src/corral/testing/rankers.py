"""check_ranker: what stage 2 owes its callers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from corral.data.batches import Query
from corral.data.features import FeatureTable
from corral.data.vocabulary import PADDING, UNKNOWN
from corral.testing.requirement import require, require_close
from corral.testing.small_world import distinct_items, one_query, seeded, small_features, small_queries, with_history

USERS, ITEMS = 30, 5000

# As ``corral.TwoStage(..., ranker=...)`` takes it: features by user row and by item row, to a module.
MakeRanker = Callable[[FeatureTable, FeatureTable], nn.Module]


def small_ranker(make: MakeRanker, seed: int = 0) -> Any:
    """In evaluation mode, float64; what its constructor draws follows the seed."""
    torch.manual_seed(seed)
    return make(small_features(USERS, "user_id"), small_features(ITEMS, "item_id")).double().eval()


def queries(count: int, length: int = 6) -> Query:
    """B queries over the small tables."""
    return small_queries(count, users=USERS, items=ITEMS, length=length)


def items_of(count: int, items: int) -> Tensor:
    """Item rows [B, N], none twice for a query."""
    return distinct_items(count, items, ITEMS)


@torch.no_grad()
def shapes(ranker: Any) -> None:
    """One finite logit for each item of each query."""
    for count in (1, 5):
        for items in (1, 300):
            logits = ranker(queries(count), items_of(count, items))
            require(
                logits.shape == (count, items), f"logits of {count} queries with {items} items are [{count}, {items}]"
            )
            require(logits.is_floating_point() and logits.isfinite().all(), "logits are finite floating numbers")


@torch.no_grad()
def logits_move_with_their_items(ranker: Any) -> None:
    """The order in which items are given says nothing."""
    query, items, order = queries(5), items_of(5, 12), torch.randperm(12, generator=seeded(3))
    found = ranker(query, items[:, order])
    require_close(found, ranker(query, items)[:, order], "items in another order keep their logits", rtol=0)


@torch.no_grad()
def a_logit_does_not_depend_on_the_other_items(ranker: Any) -> None:
    """Else a list cannot be scored in pieces, and what is trained is not what is served."""
    query, items = queries(5), items_of(5, 12)
    other = items.clone()
    other[:, 1:] = items[:, 1:].roll(1, dims=0)
    other[:, -1] = PADDING
    promise = "a logit depends on its own item and the query, never on the other items of the list"
    require_close(ranker(query, items)[:, 0], ranker(query, other)[:, 0], promise, rtol=0)
    alone = torch.cat([ranker(query, items[:, n : n + 1]) for n in range(12)], dim=1)
    require_close(ranker(query, items), alone, promise, rtol=0)


@torch.no_grad()
def a_batch_of_one_equals_its_row(ranker: Any) -> None:
    """No query depends on the others of its batch."""
    query, items = queries(5), items_of(5, 12)
    whole = ranker(query, items)
    for row in range(5):
        alone = ranker(one_query(query, row), items[row : row + 1])
        require_close(alone, whole[row : row + 1], "logits do not depend on the other queries of the batch", rtol=0)


@torch.no_grad()
def padding_and_unknown_rows(ranker: Any) -> None:
    """Rows 0 and 1 come in lists, histories and as users."""
    query = queries(3)
    query.user[2] = PADDING
    items = torch.tensor([[PADDING, UNKNOWN, 2]] * 3)
    require(ranker(query, items).isfinite().all(), "items and users 0 (padding) and 1 (unknown) have finite logits")
    query.history[:] = UNKNOWN
    require(ranker(query, items).isfinite().all(), "a history of unknown items gives finite logits")


@torch.no_grad()
def more_padding_changes_nothing(ranker: Any) -> None:
    """Histories come padded in front, to whatever length; also to none."""
    query, items = queries(5), items_of(5, 4)
    longer = with_history(query, torch.cat([torch.zeros(5, 9, dtype=torch.int64), query.history], dim=1))
    promise = "more padding (row 0) in front of a history changes nothing"
    require_close(ranker(longer, items), ranker(query, items), promise, rtol=0)
    none, empty = with_history(query, query.history[:, :0]), with_history(query, torch.zeros_like(query.history))
    promise = "a history of no columns [B, 0] is the same as one of padding alone"
    require_close(ranker(none, items), ranker(empty, items), promise, rtol=0)


def one_example_trains(ranker: Any) -> None:
    """The last batch of an epoch may hold a single one."""
    ranker.train()
    logits = ranker(queries(1), items_of(1, 1))
    logits.sum().backward()
    require(logits.isfinite().all(), "one example alone gives a finite logit in training")
    finite = all(one.grad is None or one.grad.isfinite().all() for one in ranker.parameters())
    require(finite, "one example alone gives finite gradients: is there a variance of a single number?")


def gradients(ranker: Any) -> None:
    """Training reaches every weight with finite gradients."""
    ranker.train()
    logits = ranker(queries(20), items_of(20, 30))
    (logits * torch.randn(logits.shape, generator=seeded(1))).sum().backward()
    missing = [name for name, parameter in ranker.named_parameters() if parameter.grad is None]
    require(not missing, f"training reaches every weight, but not {', '.join(missing)}")
    wrong = [name for name, parameter in ranker.named_parameters() if not parameter.grad.isfinite().all()]
    require(not wrong, f"gradients are finite, but not of {', '.join(wrong)}")


CHECKS: tuple[Callable[[Any], None], ...] = (
    shapes,
    logits_move_with_their_items,
    a_logit_does_not_depend_on_the_other_items,
    a_batch_of_one_equals_its_row,
    padding_and_unknown_rows,
    more_padding_changes_nothing,
    one_example_trains,
    gradients,
)


def saved_weights_are_all_it_needs(make: MakeRanker) -> None:
    """A bundle holds the ``state_dict`` and nothing else."""
    ranker, twin = small_ranker(make), small_ranker(make, seed=1)
    query, items = queries(5), items_of(5, 12)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=seeded(4))
        twin.load_state_dict(ranker.state_dict())
        same = torch.equal(twin(query, items), ranker(query, items))
    require(same, "a new one with the same state_dict gives the same logits: is there a tensor that is no buffer?")


def check_ranker(make: MakeRanker) -> None:
    """All checks, each on a new instance.

    Args:
        make: as ``corral.TwoStage(..., ranker=...)`` takes it.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    for check in CHECKS:
        check(small_ranker(make))
    saved_weights_are_all_it_needs(make)
