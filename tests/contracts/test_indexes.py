"""Every ItemIndex: the same questions, the same answers as brute force."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from corral.data.candidates import Candidates
from corral.retrieval import faiss_index
from corral.retrieval.faiss_index import FaissIndex, open_index
from corral.retrieval.index import ExactIndex, ItemIndex
from corral.testing.indexes import CHECKS, brute_force, check_item_index, equals_brute_force, small_catalogue

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


@exact_indexes
def test_equals_brute_force(build: Build) -> None:
    equals_brute_force(build)


@all_indexes
@pytest.mark.parametrize("check", CHECKS)
def test_contract(check: Callable[[Build], None], build: Build) -> None:
    check(build)


def test_all_checks_in_one_call() -> None:
    check_item_index(ExactIndex)


class Wrong(ExactIndex):
    """An exact index with something broken in it; the checks must notice."""

    fault = ""

    def search(self, query_vectors: Tensor, k: int, exclude: Any = None, allow: Any = None) -> Candidates:
        if self.fault == "filters afterwards" and exclude is not None and k > 0:
            found = super().search(query_vectors, k, None, allow)
            hidden = (found.items[:, :, None] == exclude[:, None, :]).any(2)
            return Candidates(found.items.masked_fill(hidden, 0), found.scores.masked_fill(hidden, -torch.inf))
        found = super().search(query_vectors, k, exclude, None if self.fault == "ignores allow" else allow)
        return Candidates(found.items, found.scores * 2) if self.fault == "other scores" else found


@pytest.mark.parametrize(
    ("fault", "promise"),
    [
        ("filters afterwards", "the items of greatest inner product"),
        ("ignores allow", "the items of greatest"),
        ("other scores", "scores are the inner products"),
    ],
)
def test_the_checks_reject_a_wrong_index(fault: str, promise: str) -> None:
    class Broken(Wrong):
        pass

    Broken.fault = fault
    with pytest.raises(AssertionError, match=promise):
        check_item_index(Broken)
    if fault != "other scores":
        with pytest.raises(AssertionError):
            check_item_index(Broken, exact=False)


@all_indexes
def test_unanswerable_searches_are_refused(build: Build) -> None:
    vectors, items, queries = small_catalogue(5, grid=2)
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
def test_bad_contents_are_refused(build: Build) -> None:
    vectors, items, _ = small_catalogue(7, grid=2)
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
def test_save_and_open(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, items, queries = small_catalogue(9, m=700)
    index = build(vectors, items)
    index.save(tmp_path / "index")
    assert len({file.stat().st_mode for file in (tmp_path / "index").iterdir()}) == 1  # whoever reads one reads all
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
    vectors, items, _ = small_catalogue(10)
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
    vectors, items, _ = small_catalogue(11)
    for build in (FaissIndex.flat, FaissIndex.ivf, FaissIndex.hnsw):
        with pytest.raises(ImportError, match=r"corral\[ann\]"):
            build(vectors, items)


@settings(max_examples=60, deadline=None)
@given(st.data())
@pytest.mark.parametrize("build", marked(EXACT | APPROXIMATE))
def test_filters_keep_k(build: Build, data: st.DataObject) -> None:
    """Whatever is excluded or not allowed: min(k, what is left) items, none of them forbidden, none twice."""
    m = data.draw(st.integers(1, 80), label="m")
    vectors, items, queries = small_catalogue(data.draw(st.integers(0, 99)), m=m, b=3, grid=1)
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


@needs_faiss
def test_vectors_gathered_for_scoring_are_bounded_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal scores are not settled until all is fetched: later rounds look at four and sixteen times as many."""
    vectors = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)).repeat(80, 1)
    index, exact = FaissIndex.flat(vectors, torch.arange(2, 962)), ExactIndex(vectors, torch.arange(2, 962))
    monkeypatch.setattr(faiss_index, "SCORING_BYTES", 4 * 8 * 400)
    sizes, settle = [], FaissIndex._settle

    def noted(self: FaissIndex, queries: Tensor, columns: Tensor, *rest: Any) -> Any:
        sizes.append(columns.numel())
        return settle(self, queries, columns, *rest)

    monkeypatch.setattr(FaissIndex, "_settle", noted)
    queries = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    found, wanted = index.search(queries, 20), exact.search(queries, 20)
    assert torch.equal(found.items, wanted.items)
    assert len(sizes) > 3
    assert max(sizes) <= 400
