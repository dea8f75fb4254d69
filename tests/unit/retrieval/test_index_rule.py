"""IndexRule: exact up to a size; beyond it FAISS, which then finds as much as it says."""

from __future__ import annotations

import importlib.util
import logging
import threading

import pytest
import torch
from torch import Tensor

from corral.retrieval.faiss_index import FaissIndex, search_with_one_thread
from corral.retrieval.index import ExactIndex
from corral.retrieval.index_rule import IndexRule

needs_faiss = pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="FAISS is not installed")
K = 10


def world() -> tuple[Tensor, Tensor, Tensor]:
    """Vectors without any order, the worst for inverted lists; and queries."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4_000, 12, generator=generator), torch.arange(2, 4_002), torch.randn(50, 12, generator=generator)


def test_up_to_its_size_an_index_is_exact() -> None:
    vectors, items, queries = world()
    index = IndexRule(exact_up_to=4_000).build(vectors, items, queries, K)
    assert isinstance(index, ExactIndex)
    assert index.description["kind"] == "exact"


@needs_faiss
def test_beyond_it_faiss_finds_what_it_must() -> None:
    vectors, items, queries = world()
    wanted = ExactIndex(vectors, items).search(queries, K).items
    probes = []
    for least in (0.3, 0.9, 1.0):
        index = IndexRule(exact_up_to=3_999, min_recall=least).build(vectors, items, queries, K)
        assert isinstance(index, FaissIndex)
        found = index.search(queries, K).items
        recall = (
            sum(len(set(a) & set(b)) for a, b in zip(found.tolist(), wanted.tolist(), strict=True)) / wanted.numel()
        )
        said = index.description
        assert recall >= least
        assert said["recall"] == pytest.approx(recall, abs=1e-4)
        assert (said["recall_at"], said["recall_queries"]) == (K, 50)
        probes.append(said["num_probes"])
    assert probes == sorted(probes)
    assert probes[0] < probes[-1] <= said["num_lists"]


def test_nobody_searches_blindly() -> None:
    """Without queries there is nothing to measure with."""
    vectors, items, queries = world()
    assert isinstance(IndexRule(exact_up_to=0).build(vectors, items, queries[:0], K), ExactIndex)


def test_without_faiss_it_is_exact_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with caplog.at_level(logging.WARNING, "corral.index"):
        assert isinstance(IndexRule(exact_up_to=100).build(*world(), K), ExactIndex)
    assert "4000 items are searched exactly" in caplog.text
    assert "corral[ann]" in caplog.text


@pytest.mark.parametrize(("size", "recall"), [(-1, 0.9), (1, 0.0), (1, 1.1)])
def test_rules_that_cannot_be_kept_are_refused(size: int, recall: float) -> None:
    with pytest.raises(ValueError, match="exact_up_to must not be negative"):
        IndexRule(size, recall)


@needs_faiss
def test_a_thread_can_be_told_to_search_alone() -> None:
    import faiss

    counts = []

    def ask() -> None:
        faiss.omp_set_num_threads(3)
        search_with_one_thread()
        counts.append(faiss.omp_get_max_threads())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert counts == [1]
