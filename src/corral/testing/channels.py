"""check_recall_channel: what a source of candidates owes those that merge, filter and rank them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from corral.data.batches import Query
from corral.retrieval.channels import RecallChannel
from corral.testing.requirement import require
from corral.testing.small_world import one_query, small_queries

USERS, ITEMS, LENGTH = 20, 50, 7


def queries(count: int) -> Query:
    """B queries over user rows below 20 and item rows below 50."""
    return small_queries(count, users=USERS, items=ITEMS, length=LENGTH)


def lists(channel: Any) -> None:
    """[B, k]: real items, none twice, best first, then padding."""
    require(isinstance(channel, RecallChannel), "a recall channel has a name and recall(query, k, exclude, allow)")
    require(isinstance(channel.name, str) and channel.name, "a recall channel's name is a word for reports")
    for k in (1, 10, ITEMS + 20):
        found = channel.recall(queries(6), k)
        require(found.items.shape == (6, k), f"recall of 6 queries with k={k} gives lists [6, {k}]")
        require(found.items.dtype == torch.int64, "item rows are int64")
        real = (found.items >= 2) & (found.items < ITEMS)
        require(
            (real | (found.items == 0)).all(), "lists hold real item rows (2 and above), and 0 where there are no more"
        )
        ended = (~found.mask).long().cumsum(1) > 0
        require(not (ended & found.mask).any(), "padding stands at the end of a list alone")
        require(torch.isneginf(found.scores[~found.mask]).all(), "scores are -inf where there is no item")
        require(found.scores[found.mask].isfinite().all(), "items have finite scores")
        require((found.scores[:, 1:] <= found.scores[:, :-1]).all(), "scores fall along the list")
        for row in found.items:
            there = row[row != 0]
            require(len(there.unique()) == len(there), "no item stands twice in a list")


def a_longer_list_begins_with_the_shorter(channel: Any) -> None:
    """k says how much is wanted, not what."""
    long, short = channel.recall(queries(6), 20).items, channel.recall(queries(6), 4).items
    require(torch.equal(long[:, :4], short), "the first items of a longer list are those of a shorter one")


def a_batch_of_one_equals_its_row(channel: Any) -> None:
    """No query depends on the others of its batch."""
    query = queries(6)
    whole = channel.recall(query, 10)
    for row in range(6):
        alone = channel.recall(one_query(query, row), 10)
        require(
            torch.equal(alone.items[0], whole.items[row]), "a list does not depend on the other queries of the batch"
        )


def filters_keep_k(channel: Any) -> None:
    """Excluded and not allowed items are taken out, and as many others come in as there are."""
    query = queries(6)
    every, best = channel.recall(query, ITEMS + 20).items, channel.recall(query, 12).items
    odd = torch.tensor([0, 1, -1, 10**6]).expand(6, -1)
    allow = torch.arange(ITEMS) % 3 != 0
    for gone in (None, best[:, :5], torch.cat([odd, best[:, 2:9]], 1), torch.zeros(6, 0, dtype=torch.int64)):
        for only in (None, allow, torch.zeros_like(allow)):
            found = channel.recall(query, 8, gone, only).items
            for row in range(6):
                left = set(every[row].tolist()) - {0} - (set() if gone is None else set(gone[row].tolist()))
                left = {item for item in left if only is None or (item < len(only) and bool(only[item]))}
                shown = set(found[row].tolist()) - {0}
                require(shown <= left, "excluded items, and those that are not allowed, never come back")
                promise = f"k items while there are so many: of {len(left)} left {len(shown)} came back, with k=8"
                require(len(shown) == min(8, len(left)), promise)


CHECKS: tuple[Callable[[Any], None], ...] = (
    lists,
    a_longer_list_begins_with_the_shorter,
    a_batch_of_one_equals_its_row,
    filters_keep_k,
)


def check_recall_channel(channel: Any) -> None:
    """All checks.

    Args:
        channel: of a catalogue with user rows below 20 and item rows below 50.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    with torch.no_grad():
        for check in CHECKS:
            check(channel)
