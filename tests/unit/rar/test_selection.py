"""Every selector: the same questions, the same rules for ties, exclusion, padding and state."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from corral.rar.ann_selector import AnnSelector
from corral.rar.pool import Metric
from corral.rar.selection import ExactSelector, ListSelector, Selected, Selector, SimHashSelector, best_among

HAVE_FAISS = importlib.util.find_spec("faiss") is not None
needs_faiss = pytest.mark.skipif(not HAVE_FAISS, reason="FAISS is not installed")

AnySelector = ExactSelector | SimHashSelector | AnnSelector
Build = Callable[[Metric], AnySelector]
# What orders by the metric itself: exact, or re-ranked with the whole pool as the shortlist.
EXACT: dict[str, Build] = {
    "exact": ExactSelector,
    "simhash, all re-ranked": lambda metric: SimHashSelector(64, seed=1, metric=metric, rerank=10_000, native=False),
    "faiss-simhash, all re-ranked": lambda metric: SimHashSelector(64, seed=1, metric=metric, rerank=10_000),
    "faiss-ivf, all lists": lambda metric: AnnSelector(metric, probes=10_000),
}
APPROXIMATE: dict[str, Build] = {
    "simhash": lambda metric: SimHashSelector(70, seed=1, metric=metric, native=False),
    "faiss-simhash": lambda metric: SimHashSelector(70, seed=1, metric=metric),
    "simhash, re-ranked": lambda metric: SimHashSelector(128, seed=1, metric=metric, rerank=20, native=False),
    "faiss-simhash-ivf": lambda metric: SimHashSelector(64, seed=1, metric=metric, index="ivf"),
    "faiss-hnsw": lambda metric: AnnSelector(metric, kind="hnsw"),
}


def marked(names: dict[str, Build]) -> list[object]:
    return [
        pytest.param(build, id=name, marks=[needs_faiss] if name.startswith("faiss") else [])
        for name, build in names.items()
    ]


exact_selectors = pytest.mark.parametrize("build", marked(EXACT))
all_selectors = pytest.mark.parametrize("build", marked(EXACT | APPROXIMATE))
both_metrics = pytest.mark.parametrize("metric", ["cosine", "inner-product"])


def world(n: int = 200, size: int = 8, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors of small whole numbers (many ties, exact sums), their rows in no order, and queries."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randint(-2, 3, (n, size), generator=generator).float()
    rows = 2 + torch.randperm(3 * n, generator=generator)[:n]
    return vectors, rows, torch.randint(-2, 3, (17, size), generator=generator).float()


def by_hand(scores: Tensor, rows: Tensor, k: int, exclude: Tensor | None = None) -> list[list[int]]:
    """Score descending, row ascending; one query at a time."""
    answer = []
    for query, own in enumerate(scores.tolist()):
        gone = -1 if exclude is None else int(exclude[query])
        order = sorted((-score, row) for score, row in zip(own, rows.tolist(), strict=True) if row != gone)
        answer.append([row for _, row in order[:k]])
    return answer


@exact_selectors
def test_inner_product_is_a_stable_sort(build: Build) -> None:
    vectors, rows, queries = world()
    selector = build("inner-product")
    selector.fit(vectors, rows)
    exclude = rows[:17]
    for out in (None, exclude):
        found = selector.search(queries, 12, out)
        assert found.rows.tolist() == by_hand(queries @ vectors.T, rows, 12, out)
        assert bool((found.scores.diff(dim=1) <= 0).all())


@exact_selectors
def test_cosine_is_the_cosine(build: Build) -> None:
    generator = torch.Generator().manual_seed(3)
    vectors, queries = torch.randn(150, 8, generator=generator), torch.randn(9, 8, generator=generator)
    rows = torch.arange(2, 152)
    selector = build("cosine")
    selector.fit(vectors, rows)
    found = selector.search(3.0 * queries, 10)
    cosine = functional.cosine_similarity(queries.double()[:, None], vectors.double()[None], dim=2)
    assert found.rows.tolist() == by_hand(cosine, rows, 10)
    torch.testing.assert_close(found.scores, cosine.gather(1, found.rows - 2).float())


@all_selectors
@both_metrics
def test_rules_of_every_selector(build: Build, metric: Metric) -> None:
    vectors, rows, _ = world()
    selector = build(metric)
    assert isinstance(selector, Selector)
    selector.fit(vectors, rows)
    for k in (1, 10, 199, 200, 230):
        found = selector.search(vectors, k, rows)
        assert found.rows.shape == found.scores.shape == (200, k)
        assert found.rows.dtype == torch.int64
        assert found.scores.dtype == torch.float32
        there = found.rows > 0
        # the pool less the query's own row, however many are asked for
        assert bool((there.sum(1) == min(k, 199)).all())
        assert torch.equal(there, found.scores > -torch.inf)
        assert not bool((found.rows == rows[:, None]).any())
        assert all(len(set(line[line > 0].tolist())) == int((line > 0).sum()) for line in found.rows)
        scores, lines = found.scores[:, : min(k, 199)], found.rows[:, : min(k, 199)]
        assert bool((scores.diff(dim=1) <= 0).all())
        tied = scores.diff(dim=1) == 0
        assert bool((lines.diff(dim=1)[tied] > 0).all())
    absent = selector.search(vectors, 5, torch.full((200,), 10_000))
    assert bool((absent.rows > 0).all())
    assert selector.search(vectors[:0], 3, rows[:0]).rows.shape == (0, 3)


@all_selectors
def test_an_empty_pool_pads(build: Build) -> None:
    selector = build("cosine")
    with pytest.raises(RuntimeError, match="has no pool yet"):
        selector.search(torch.ones(2, 3), 4)
    selector.fit(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    found = selector.search(torch.ones(2, 3), 4, torch.tensor([2, 3]))
    assert torch.equal(found.rows, torch.zeros(2, 4, dtype=torch.int64))
    assert bool(found.scores.isneginf().all())


@all_selectors
def test_what_is_refused(build: Build) -> None:
    selector = build("cosine")
    for row in (0, 1):
        with pytest.raises(ValueError, match=f"row {row} is reserved"):
            selector.fit(torch.eye(2), torch.tensor([5, row]))
    with pytest.raises(ValueError, match="row 5 is in the pool twice"):
        selector.fit(torch.eye(3), torch.tensor([5, 2, 5]))
    with pytest.raises(ValueError, match="the vector of row 7 is not finite"):
        selector.fit(torch.tensor([[1.0], [torch.nan]]), torch.tensor([2, 7]))
    with pytest.raises(ValueError, match=r"need vectors \[n, D\] and rows \[n\]"):
        selector.fit(torch.eye(3), torch.tensor([5, 2]))
    selector.fit(torch.eye(3), torch.tensor([5, 2, 3]))
    with pytest.raises(ValueError, match="k must be at least 1"):
        selector.search(torch.eye(3), 0)
    with pytest.raises(ValueError, match="query vector 1 is not finite"):
        selector.search(torch.tensor([[1.0, 0.0, 0.0], [torch.inf, 0.0, 0.0]]), 1)


@all_selectors
def test_the_pool_is_a_snapshot(build: Build) -> None:
    vectors, rows, queries = world()
    selector = build("cosine")
    selector.fit(vectors, rows)
    before = selector.search(queries, 5)
    vectors += torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1))
    rows += 1
    again = selector.search(queries, 5)
    assert torch.equal(before.rows, again.rows)
    # another pool, of another size and other vectors: nothing of the old one is left
    selector.fit(torch.eye(3), torch.tensor([9, 4, 6]), version=2)
    assert selector.search(torch.eye(3), 1).rows.flatten().tolist() == [9, 4, 6]


@needs_faiss
@both_metrics
@pytest.mark.parametrize("rerank", [0, 25])
def test_faiss_and_torch_agree_to_the_bit(metric: Metric, rerank: int) -> None:
    vectors, rows, queries = world(n=3_000, size=6)
    found = []
    for native in (True, False):
        selector = SimHashSelector(64, seed=2, metric=metric, rerank=rerank, native=native)
        selector.fit(vectors, rows)
        found.append(selector.search(queries, 10, rows[:17]))
    assert torch.equal(found[0].rows, found[1].rows)
    assert torch.equal(found[0].scores, found[1].scores)


@both_metrics
@pytest.mark.parametrize("rerank", [None, 0, 8])
def test_own_pools(metric: Metric, rerank: int | None) -> None:
    """A pool that is the whole pool gives what ``search`` gives; repeats, padding and strangers fall out."""
    _, rows, queries = world(n=40)
    # not whole numbers: products of other shapes round differently, and would part what ties
    vectors = torch.randn(40, 8, generator=torch.Generator().manual_seed(5))
    selector: ExactSelector | SimHashSelector
    selector = ExactSelector(metric) if rerank is None else SimHashSelector(64, seed=0, metric=metric, rerank=rerank)
    assert isinstance(selector, ListSelector)
    selector.fit(vectors, rows)
    exclude = rows[:17]
    shuffled = torch.stack([torch.randperm(40, generator=torch.Generator().manual_seed(q)) for q in range(17)])
    own = torch.cat([rows[shuffled], rows[shuffled[:, :9]], torch.tensor([[0, 1, 0]]).expand(17, -1)], 1)
    for k in (5, 60):
        wanted = selector.search(queries, k, exclude)
        found = selector.search_among(queries, torch.cat([own, torch.full((17, 2), 5_000)], 1), k, exclude)
        assert torch.equal(found.rows, wanted.rows)
        torch.testing.assert_close(found.scores, wanted.scores)
    part = selector.search_among(queries, own[:, :6], 4)
    assert all(set(line.tolist()) <= set(allowed.tolist()) for line, allowed in zip(part.rows, own[:, :6], strict=True))


@both_metrics
def test_renumbered_rows_are_the_same_ones(metric: Metric) -> None:
    _, rows, queries = world(n=40)
    vectors = torch.randn(40, 8, generator=torch.Generator().manual_seed(6))
    moved = torch.arange(int(rows.max()) + 1) * 3
    for selector in (ExactSelector(metric), SimHashSelector(64, seed=0, metric=metric, rerank=8)):
        selector.fit(vectors, rows)
        before = selector.search(queries, 5), selector.search_among(queries, rows.expand(17, -1), 5)
        selector.renumber(moved)
        after = selector.search(queries, 5), selector.search_among(queries, moved[rows].expand(17, -1), 5)
        for one, other in zip(before, after, strict=True):
            assert torch.equal(moved[one.rows], other.rows)


def test_best_among_by_hand() -> None:
    scores = torch.tensor([[1.0, 3.0, 3.0, 2.0, 9.0, 3.0], [5.0, 5.0, 5.0, 5.0, 5.0, 5.0]])
    rows = torch.tensor([[7, 9, 4, 4, 0, 9], [1, 0, 2, 2, 3, 3]])
    found = best_among(scores, rows, 4, torch.tensor([7, 2]))
    assert found.rows.tolist() == [[4, 9, 0, 0], [3, 0, 0, 0]]
    assert found.scores[0, :2].tolist() == [3.0, 3.0]
    assert bool(found.scores[1, 1:].isneginf().all())
    assert best_among(scores[:, :0], rows[:, :0], 2).rows.tolist() == [[0, 0], [0, 0]]


@all_selectors
@both_metrics
def test_state_goes_into_a_fresh_selector(build: Build, metric: Metric) -> None:
    vectors, rows, queries = world()
    one, fresh, used = build(metric), build(metric), build(metric)
    one.fit(vectors, rows, version=41)
    used.fit(torch.randn(9, 5, generator=torch.Generator().manual_seed(0)), torch.arange(2, 11))
    used.search(torch.ones(2, 5), 3)
    wanted = one.search(queries, 7, rows[:17])
    for other in (fresh, used):
        state = {name: value.clone() for name, value in one.state_dict().items()}
        assert all(isinstance(value, Tensor) for value in state.values())
        other.load_state_dict(state)
        found: Selected = other.search(queries, 7, rows[:17])
        assert torch.equal(found.rows, wanted.rows)
        assert torch.equal(found.scores, wanted.scores)
        assert int(other.pool.version) == 41


def test_a_mismatch_is_refused() -> None:
    vectors, rows, _ = world()
    one = SimHashSelector(64, seed=1, rerank=10)
    one.fit(vectors, rows)
    for other in (SimHashSelector(64, seed=2, rerank=10), SimHashSelector(63, seed=1, rerank=10)):
        with pytest.raises(ValueError, match="these codes were made with"):
            other.load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match="of the other metric, not inner-product"):
        ExactSelector("inner-product").load_state_dict(ExactSelector("cosine").state_dict())
    codes_alone = SimHashSelector(64, seed=1)
    codes_alone.fit(vectors, rows)
    assert codes_alone.pool.vectors.numel() == 0
    with pytest.raises(ValueError, match="rerank=10 needs vectors"):
        one.load_state_dict(codes_alone.state_dict())
    with pytest.raises(ValueError, match="metric='angle'"):
        ExactSelector("angle")  # type: ignore[arg-type]


def test_no_gradient_comes_through_a_choice() -> None:
    vectors, rows, queries = world()
    for selector in (ExactSelector(), SimHashSelector(64, seed=0, rerank=20)):
        selector.fit(vectors.requires_grad_(), rows)
        assert not selector.search(queries.requires_grad_(), 3).scores.requires_grad
        assert not list(selector.parameters())
