"""check_item_index: an index gives the items of greatest inner product, and never fewer than k while there are some."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corral.retrieval.index import ExactIndex
from corral.testing.requirement import require, require_refused
from corral.testing.small_world import seeded

# From item vectors [M, D] and their rows [M].
BuildIndex = Callable[[Tensor, Tensor], Any]


def brute_force(
    vectors: Tensor, items: Tensor, queries: Tensor, k: int, exclude: Tensor | None, allow: Tensor | None
) -> tuple[np.ndarray, np.ndarray]:
    """Items and scores [B, k] in plain Python: score descending, row ascending; padded."""
    scores = queries.double().numpy() @ vectors.double().numpy().T
    found = np.zeros((len(queries), k), dtype=np.int64)
    best = np.full((len(queries), k), -np.inf)
    for query in range(len(queries)):
        gone = set() if exclude is None else set(exclude[query].tolist())
        left = [
            (-scores[query, place], int(item))
            for place, item in enumerate(items)
            if int(item) not in gone and (allow is None or (int(item) < len(allow) and bool(allow[item])))
        ]
        for place, (score, item) in enumerate(sorted(left)[:k]):
            found[query, place], best[query, place] = item, -score
    return found, best


def small_catalogue(seed: int, m: int = 60, b: int = 11, grid: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Item vectors, item rows, query vectors; of small integers with ``grid``: exact, full of ties."""
    generator = seeded(seed)
    if grid is None:
        vectors, queries = (torch.randn((count, 5), generator=generator) for count in (m, b))
    else:
        vectors, queries = (torch.randint(-grid, grid + 1, (count, 5), generator=generator).float() for count in (m, b))
    items = torch.randperm(3 * m, generator=generator)[:m] + 2
    return vectors, items, queries


def equals_brute_force(build: BuildIndex) -> None:
    """Exactly, ties included, whatever is excluded or allowed."""
    for grid in (None, 0, 1, 2):
        vectors, items, queries = small_catalogue(1, grid=grid)
        exclude = torch.randint(0, 200, (len(queries), 40), generator=seeded(3))
        exclude[0] = 0
        exclude[1, :] = items[0]
        exclude[2, :] = items[:40]
        allow = torch.rand(150, generator=seeded(4)) < 0.5
        index = build(vectors, items)
        for k in (1, 5, 59, 60, 75):
            for without in (None, exclude[:, :0], exclude):
                for only in (None, allow):
                    found = index.search(queries, k, without, only)
                    wanted, scores = brute_force(vectors, items, queries, k, without, only)
                    case = f"k={k}, exclude={without is not None}, allow={only is not None}"
                    same = np.array_equal(found.items.numpy(), wanted)
                    require(same, f"the items of greatest inner product, equal ones by row ({case})")
                    close = np.allclose(found.scores.numpy(), scores, rtol=1e-5, atol=1e-5)
                    require(close, f"scores are the inner products, -inf at padding ({case})")
                    typed = found.items.dtype == torch.int64 and found.scores.dtype == torch.float32
                    require(typed, "items are int64, scores float32")


def exclusion_never_loses_k(build: BuildIndex) -> None:
    """Exactly the best are excluded, more and more of them."""
    vectors, items, queries = small_catalogue(2, m=400, b=20)
    exclude = torch.zeros((20, 390), dtype=torch.int64)
    best = ExactIndex(vectors, items).search(queries, 390)
    for query in range(20):
        exclude[query, : 20 * query] = best.items[query, : 20 * query]
    found = build(vectors, items).search(queries, 12, exclude)
    require(found.mask.all(), "k items come back while so many are left, however many are excluded")
    require(not (found.items[:, :, None] == exclude[:, None, :]).any(), "an excluded item never comes back")
    distinct = all(len(row.unique()) == 12 for row in found.items)
    require(distinct, "no item stands twice in a list")
    require((found.scores[:, 1:] <= found.scores[:, :-1]).all(), "scores fall along the list")
    last = build(vectors, items).search(queries, 12, best.items)
    require((last.mask.sum(dim=1) == 10).all(), "the ten that are left after 390 of 400 come back")


def allow_list_never_loses_k(build: BuildIndex) -> None:
    """Also where the list is tiny."""
    vectors, items, queries = small_catalogue(3, m=400, b=20)
    index = build(vectors, items)
    for allowed in (0, 1, 9, 100, 399):
        allow = torch.zeros(int(items.max()) + 1, dtype=torch.bool)
        allow[items[:allowed]] = True
        found = index.search(queries, 10, items[None, :5].expand(20, -1), allow)
        left = min(10, max(0, allowed - 5))
        require((found.mask.sum(dim=1) == left).all(), f"of {allowed} allowed items, 5 excluded, {left} come back")
        only = set(found.items.unique().tolist()) <= {0, *items[5:allowed].tolist()}
        require(only, "only allowed items come back")
        require(torch.isneginf(found.scores[~found.mask]).all(), "scores are -inf where there is no item")


def harmless_exclusions(build: BuildIndex) -> None:
    """Padding, reserved rows, repeats and rows that it does not have."""
    vectors, items, queries = small_catalogue(4)
    index = build(vectors, items)
    plain = index.search(queries, 60)
    odd = torch.tensor([0, 0, 1, -1, 10**9, 999]).expand(len(queries), -1)
    same = torch.equal(index.search(queries, 60, odd).items, plain.items) and bool(plain.mask.all())
    require(same, "excluding rows that are not in the index changes nothing")


def unanswerable_searches_are_refused(build: BuildIndex) -> None:
    """With ValueError, not with a wrong answer."""
    vectors, items, queries = small_catalogue(5)
    index = build(vectors, items)
    for k in (0, -3):
        require_refused(partial(index.search, queries, k), f"k={k} is refused with ValueError")
    require_refused(lambda: index.search(queries[:, :4], 3), "query vectors of another size are refused")
    wrong = torch.zeros((2, 2), dtype=torch.int64)
    require_refused(lambda: index.search(queries, 3, wrong), "exclude of another number of queries is refused")
    broken = queries.clone()
    broken[3, 0] = torch.nan
    require_refused(lambda: index.search(broken, 3), "a query vector with NaN is refused")


def nothing_asked_and_nothing_there(build: BuildIndex) -> None:
    """No queries; no items."""
    vectors, items, _ = small_catalogue(6)
    found = build(vectors, items).search(torch.empty((0, 5)), 3, torch.empty((0, 4), dtype=torch.int64))
    require(found.items.shape == (0, 3), "no queries give lists [0, k]")
    empty = build(torch.empty((0, 5)), torch.empty(0, dtype=torch.int64))
    none = empty.search(torch.ones((2, 5)), 3, torch.ones((2, 2), dtype=torch.int64))
    padded = none.items.tolist() == [[0, 0, 0]] * 2 and bool(torch.isneginf(none.scores).all())
    require(padded, "an empty index gives padding, with scores -inf")


def bad_contents_are_refused(build: BuildIndex) -> None:
    """Reserved and repeated rows, vectors that are not finite, different numbers."""
    vectors, items, _ = small_catalogue(7)
    for row in (0, 1, -4):
        bad = items.clone()
        bad[5] = row
        require_refused(partial(build, vectors, bad), f"item row {row} is refused: it is reserved")
    twice = items.clone()
    twice[3] = twice[9]
    require_refused(lambda: build(vectors, twice), "an item row that is there twice is refused")
    broken = vectors.clone()
    broken[4, 2] = torch.inf
    require_refused(lambda: build(broken, items), "an item vector that is not finite is refused")
    require_refused(lambda: build(vectors, items[:-1]), "vectors and rows of different number are refused")


def is_a_snapshot(build: BuildIndex) -> None:
    """What happens to the tensors it was built of does not reach it."""
    vectors, items, queries = small_catalogue(8)
    index = build(vectors, items)
    before = index.search(queries, 9)
    vectors.zero_()
    items.fill_(7)
    after = index.search(queries, 9)
    same = torch.equal(before.items, after.items) and torch.equal(before.scores, after.scores)
    require(same, "an index copies what it is built of: training changes it in place afterwards")


def says_what_it_is(build: BuildIndex) -> None:
    """Its description can be told to whoever asks the service."""
    vectors, items, _ = small_catalogue(9)
    description = build(vectors, items).description
    require(isinstance(description.get("kind"), str), "description names the kind of index: {'kind': ...}")
    plain = all(isinstance(value, str | int | float) for value in description.values())
    require(plain, "description holds strings and numbers alone: it is written as JSON")


CHECKS: tuple[Callable[[BuildIndex], None], ...] = (
    exclusion_never_loses_k,
    allow_list_never_loses_k,
    harmless_exclusions,
    unanswerable_searches_are_refused,
    nothing_asked_and_nothing_there,
    bad_contents_are_refused,
    is_a_snapshot,
    says_what_it_is,
)


def check_item_index(build: BuildIndex, *, exact: bool = True) -> None:
    """All checks.

    Args:
        build: from item vectors [M, D] and item rows [M] to an ``ItemIndex``.
        exact: it promises the very best items; False: filters and all else are checked, not which items come back.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    for check in (equals_brute_force, *CHECKS) if exact else CHECKS:
        check(build)
