"""check_evidence: numbers about a (query, item) pair, of that pair alone, that nothing learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from corral.data.vocabulary import PADDING, UNKNOWN
from corral.testing.requirement import require, require_close
from corral.testing.small_world import distinct_items, one_query, small_queries, with_history

USERS, ITEMS, LENGTH = 20, 50, 7


def shapes(evidence: Any) -> None:
    """[B, N, size], finite for every row, without gradient."""
    query, items = small_queries(6, users=USERS, items=ITEMS, length=LENGTH), distinct_items(6, 9, ITEMS)
    found = evidence(query, items)
    require(found.shape == (6, 9, evidence.size), f"evidence of 6 x 9 pairs is [6, 9, {evidence.size}]")
    require(not found.requires_grad, "evidence carries no gradient")
    items[:, 0], items[:, 1], query.user[2] = PADDING, UNKNOWN, PADDING
    promise = "evidence is finite: for padding, unknown rows and empty histories too"
    require(evidence(query, items).isfinite().all(), promise)
    require(evidence(with_history(query, query.history[:, :0]), items).isfinite().all(), promise)


def of_the_pair_alone(evidence: Any) -> None:
    """Neither the other items nor the other queries change it, nor padding."""
    query, items = small_queries(6, users=USERS, items=ITEMS, length=LENGTH), distinct_items(6, 9, ITEMS)
    whole = evidence(query, items)
    require(torch.equal(evidence(query, items), whole), "the same pair has the same evidence")
    alone = torch.cat([evidence(query, items[:, n : n + 1]) for n in range(9)], 1)
    require_close(alone, whole, "evidence of an item does not depend on the other items", rtol=1e-5, atol=1e-6)
    for row in range(6):
        found = evidence(one_query(query, row), items[row : row + 1])
        require_close(found[0], whole[row], "evidence does not depend on the other queries", rtol=1e-5, atol=1e-6)
    longer = with_history(query, torch.cat([torch.zeros(6, 4, dtype=torch.int64), query.history], 1))
    require_close(evidence(longer, items), whole, "more padding changes nothing", rtol=1e-5, atol=1e-6)


def nothing_is_learned(evidence: Any) -> None:
    """Tables are buffers: saved with the ranker, trained by nobody."""
    require(not list(evidence.parameters()), "evidence has no parameters: nothing in it is learned")


CHECKS: tuple[Callable[[Any], None], ...] = (shapes, of_the_pair_alone, nothing_is_learned)


def check_evidence(evidence: Any) -> None:
    """All checks. That a user's own events do not speak about that user needs the data: ``corral leakage`` looks.

    Args:
        evidence: a module over user rows below 20 and item rows below 50.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    for check in CHECKS:
        check(evidence)
