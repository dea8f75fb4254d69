"""Every ItemIndex: the same questions, the same answers as brute force."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from corral.retrieval.faiss_index import FaissIndex, open_index
from corral.retrieval.index import ExactIndex, ItemIndex

HAVE_FAISS = importlib.util.find_spec("faiss") is not None
needs_faiss = pytest.mark.skipif(not HAVE_FAISS, reason="FAISS is not installed")

Build = Callable[[Tensor, Tensor], ItemIndex]
EXACT: dict[str, Build] = {
    "exact": ExactIndex,
    "exact-small-blocks": lambda v, i: ExactIndex(v, i, chunk=7, score_bytes=4 * 7 * 3),
    "faiss-flat": FaissIndex.flat,
    # visiting every list is exact, too
    "faiss-ivf-all": lambda v, i: FaissIndex.ivf(v, i, num_probes=10_000),
}
APPROXIMATE: dict[str, Build] = {
    "faiss-ivf": lambda v, i: FaissIndex.ivf(v, i, num_lists=16, num_probes=2),
    "faiss-hnsw": lambda v, i: FaissIndex.hnsw(v, i, links=8, search_breadth=16),
}


def marked(names: dict[str, Build]) -> list[object]:
    return [
        pytest.param(build, id=name, marks=[needs_faiss] if name.startswith("faiss") else [])
        for name, build in names.items()
    ]


exact_indexes = pytest.mark.parametrize("build", marked(EXACT))
all_indexes = pytest.mark.parametrize("build", marked(EXACT | APPROXIMATE))


def brute_force(
    vectors: Tensor, items: Tensor, queries: Tensor, k: int, exclude: Tensor | None, allow: Tensor | None
) -> tuple[np.ndarray, np.ndarray]:
    """Score descending, row ascending; padded."""
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


def small_world(seed: int = 0, m: int = 60, b: int = 11, grid: int | None = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors of small integers (``grid``): exact in floating point, and full of ties."""
    generator = torch.Generator().manual_seed(seed)
    if grid is None:
        vectors = torch.randn((m, 5), generator=generator)
        queries = torch.randn((b, 5), generator=generator)
    else:
        vectors = torch.randint(-grid, grid + 1, (m, 5), generator=generator).float()
        queries = torch.randint(-grid, grid + 1, (b, 5), generator=generator).float()
    items = torch.randperm(3 * m, generator=generator)[:m] + 2
    return vectors, items, queries


@exact_indexes
@pytest.mark.parametrize("grid", [None, 0, 1, 2], ids=["no-ties", "all-tied", "many-ties", "ties"])
@pytest.mark.parametrize("k", [1, 5, 59, 60, 75])
def test_equals_brute_force(build: Build, grid: int | None, k: int) -> None:
    vectors, items, queries = small_world(1, grid=grid)
    generator = torch.Generator().manual_seed(3)
    exclude = torch.randint(0, 200, (len(queries), 40), generator=generator)
    exclude[0] = 0
    exclude[1, :] = items[0]
    exclude[2, :] = items[:40]
    allow = torch.rand(150, generator=generator) < 0.5
    index = build(vectors, items)
    for without in (None, exclude[:, :0], exclude):
        for only in (None, allow):
            found = index.search(queries, k, without, only)
            wanted, scores = brute_force(vectors, items, queries, k, without, only)
            np.testing.assert_array_equal(found.items.numpy(), wanted)
            np.testing.assert_allclose(found.scores.numpy(), scores, rtol=1e-5, atol=1e-5)
            assert found.items.shape == (len(queries), k)
            assert found.items.dtype == torch.int64
            assert found.scores.dtype == torch.float32


@all_indexes
def test_exclusion_never_loses_k(build: Build) -> None:
    vectors, items, queries = small_world(2, m=400, b=20, grid=None)
    exclude = torch.zeros((20, 390), dtype=torch.int64)
    best = ExactIndex(vectors, items).search(queries, 390)
    for query in range(20):  # exactly the best are excluded, more and more of them
        exclude[query, : 20 * query] = best.items[query, : 20 * query]
    found = build(vectors, items).search(queries, 12, exclude)
    assert found.mask.all()
    assert not (found.items[:, :, None] == exclude[:, None, :]).any()
    np.testing.assert_array_equal(found.items[0].unique().shape, (12,))
    assert (found.scores[:, 1:] <= found.scores[:, :-1]).all()
    # the ten that are left after 390
    last = build(vectors, items).search(queries, 12, best.items)
    assert (last.mask.sum(dim=1) == 10).all()


@all_indexes
def test_allow_list_never_loses_k(build: Build) -> None:
    vectors, items, queries = small_world(3, m=400, b=20, grid=None)
    index = build(vectors, items)
    for n_allowed in (0, 1, 9, 100, 399):
        allow = torch.zeros(int(items.max()) + 1, dtype=torch.bool)
        allow[items[:n_allowed]] = True
        exclude = items[None, :5].expand(20, -1)
        found = index.search(queries, 10, exclude, allow)
        assert (found.mask.sum(dim=1) == min(10, max(0, n_allowed - 5))).all()
        assert set(found.items.unique().tolist()) <= {0, *items[5:n_allowed].tolist()}
        assert torch.isneginf(found.scores[~found.mask]).all()


@all_indexes
def test_harmless_exclusions(build: Build) -> None:
    vectors, items, queries = small_world(4, grid=None)
    index = build(vectors, items)
    plain = index.search(queries, 60)
    odd = torch.tensor([0, 0, 1, -1, 10**9, 999]).expand(len(queries), -1)
    assert torch.equal(index.search(queries, 60, odd).items, plain.items)
    assert plain.mask.all()


@all_indexes
def test_unanswerable_searches_are_refused(build: Build) -> None:
    vectors, items, queries = small_world(5)
    index = build(vectors, items)
    for k in (0, -3):
        with pytest.raises(ValueError, match=f"k must be at least 1, got {k}"):
            index.search(queries, k)
    with pytest.raises(ValueError, match=r"query vectors \[B, 5\]"):
        index.search(queries[:, :4], 3)
    with pytest.raises(ValueError, match="exclude"):
        index.search(queries, 3, torch.zeros((2, 2), dtype=torch.int64))
    broken = queries.clone()
    broken[3, 0] = torch.nan
    with pytest.raises(ValueError, match="query vector 3 is not finite"):
        index.search(broken, 3)


@all_indexes
def test_no_queries(build: Build) -> None:
    vectors, items, _ = small_world(6)
    found = build(vectors, items).search(torch.empty((0, 5)), 3, torch.empty((0, 4), dtype=torch.int64))
    assert found.items.shape == (0, 3)


@all_indexes
def test_empty_catalogue(build: Build) -> None:
    index = build(torch.empty((0, 5)), torch.empty(0, dtype=torch.int64))
    found = index.search(torch.ones((2, 5)), 3, torch.ones((2, 2), dtype=torch.int64))
    assert found.items.tolist() == [[0, 0, 0]] * 2
    assert torch.isneginf(found.scores).all()


@all_indexes
def test_bad_contents_are_refused(build: Build) -> None:
    vectors, items, _ = small_world(7)
    for row in (0, 1, -4):
        bad = items.clone()
        bad[5] = row
        with pytest.raises(ValueError, match=f"item row {row} is reserved"):
            build(vectors, bad)
    twice = items.clone()
    twice[3] = twice[9]
    with pytest.raises(ValueError, match=f"item row {int(items[9])} is in the index twice"):
        build(vectors, twice)
    broken = vectors.clone()
    broken[4, 2] = torch.inf
    with pytest.raises(ValueError, match=f"item row {int(items[4])} is not finite"):
        build(broken, items)
    with pytest.raises(ValueError, match="need vectors"):
        build(vectors, items[:-1])


@all_indexes
def test_is_a_snapshot(build: Build) -> None:
    vectors, items, queries = small_world(8, grid=None)
    index = build(vectors, items)
    before = index.search(queries, 9)
    vectors.zero_()
    items.fill_(7)
    after = index.search(queries, 9)
    assert torch.equal(before.items, after.items)
    assert torch.equal(before.scores, after.scores)


@all_indexes
def test_save_and_open(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, items, queries = small_world(9, m=700, grid=None)
    index = build(vectors, items)
    index.save(tmp_path / "index")
    again = open_index(tmp_path / "index")
    assert type(again) is type(index)
    assert torch.equal(again.items, items.sort().values)
    exclude = items[None, :30].expand(len(queries), -1)
    one, two = index.search(queries, 20, exclude), again.search(queries, 20, exclude)
    assert torch.equal(one.items, two.items)
    assert torch.equal(one.scores, two.scores)
    # without FAISS the same files are searched exactly
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    found = open_index(tmp_path / "index")
    assert isinstance(found, ExactIndex)
    wanted, _ = brute_force(vectors, items, queries, 20, exclude, None)
    np.testing.assert_array_equal(found.search(queries, 20, exclude).items.numpy(), wanted)


@all_indexes
def test_newer_format_is_refused(build: Build, tmp_path: Path) -> None:
    vectors, items, _ = small_world(10)
    build(vectors, items).save(tmp_path)
    text = (tmp_path / "index.json").read_text()
    (tmp_path / "index.json").write_text(text.replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(ValueError, match="newer"):
        open_index(tmp_path)


@pytest.mark.parametrize("build", marked(APPROXIMATE))
def test_approximate_indexes_find_most(build: Build) -> None:
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn((40, 16), generator=generator)
    vectors = centres.repeat(50, 1) + torch.randn((2_000, 16), generator=generator)
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    queries = vectors[::50] + 0.1 * torch.randn((40, 16), generator=generator)
    items = torch.arange(2, 2_002)
    found = build(vectors, items).search(queries, 10)
    wanted = ExactIndex(vectors, items).search(queries, 10)
    hits = (found.items[:, :, None] == wanted.items[:, None, :]).any(dim=2).float().mean()
    assert hits > 0.8
    assert (found.scores <= wanted.scores + 1e-5).all()


def test_without_faiss_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    vectors, items, _ = small_world(11)
    for build in (FaissIndex.flat, FaissIndex.ivf, FaissIndex.hnsw):
        with pytest.raises(ImportError, match=r"corral\[ann\]"):
            build(vectors, items)


@settings(max_examples=60, deadline=None)
@given(st.data())
@pytest.mark.parametrize("build", marked(EXACT | APPROXIMATE))
def test_filters_keep_k(build: Build, data: st.DataObject) -> None:
    """Whatever is excluded or not allowed: min(k, what is left) items, none of them forbidden, none twice."""
    m = data.draw(st.integers(1, 80), label="m")
    vectors, items, queries = small_world(data.draw(st.integers(0, 99)), m=m, b=3, grid=1)
    rows = st.sampled_from([0, 1, 10**6, *items.tolist()])
    width = data.draw(st.integers(0, 90), label="E")
    exclude = torch.tensor(
        data.draw(st.lists(st.lists(rows, min_size=width, max_size=width), min_size=3, max_size=3)),
        dtype=torch.int64,
    ).view(3, width)
    allow = None
    if data.draw(st.booleans()):
        length = data.draw(st.integers(0, 260))
        share = data.draw(st.floats(0, 1))
        allow = torch.rand(length, generator=torch.Generator().manual_seed(length)) < share
    k = data.draw(st.integers(1, 100), label="k")
    found = build(vectors, items).search(queries, k, exclude, allow)
    for query in range(3):
        left = set(items.tolist()) - set(exclude[query].tolist())
        if allow is not None:
            left = {item for item in left if item < len(allow) and allow[item]}
        shown = found.items[query][found.mask[query]].tolist()
        assert len(shown) == len(set(shown)) == min(k, len(left))
        assert set(shown) <= left
        assert found.mask[query, : len(shown)].all()
