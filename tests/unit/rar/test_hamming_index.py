"""HammingIndex: FAISS and torch give the same answer to the bit, ties included."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from torch import Tensor

from corral.rar import hamming_index
from corral.rar.hamming_index import HammingIndex, HammingKind

HAVE_FAISS = importlib.util.find_spec("faiss") is not None
needs_faiss = pytest.mark.skipif(not HAVE_FAISS, reason="FAISS is not installed")


def many_ties(n: int, words: int, levels: int, seed: int) -> Tensor:
    """Codes of which most are equal to others, negative ones among them."""
    generator = torch.Generator().manual_seed(seed)
    some = torch.randint(-(2**63), 2**63 - 1, (levels, words), generator=generator)
    codes = some[torch.randint(levels, (n,), generator=generator)]
    codes[:, 0] ^= torch.randint(2, (n,), generator=generator)
    return codes


def by_hand(codes: Tensor, queries: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Distance ascending, position ascending."""
    bits, asked = (np.unpackbits(words.numpy().view(np.uint8), axis=1) for words in (codes, queries))
    distance = (asked[:, None] != bits[None]).sum(2)
    position = np.argsort(distance, axis=1, kind="stable")[:, :k]
    return position, np.take_along_axis(distance, position, 1)


@pytest.mark.parametrize("native", [False, pytest.param(True, marks=needs_faiss)], ids=["torch", "faiss"])
@pytest.mark.parametrize("words", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("n", "levels"), [(1, 1), (60, 2), (6_000, 3), (6_000, 2_000)])
def test_flat_is_a_stable_sort_by_distance(native: bool, words: int, n: int, levels: int) -> None:
    codes = many_ties(n, words, levels, n + words)
    queries = torch.cat([codes[:5], many_ties(16, words, 16, 1)])
    index = HammingIndex(codes, native=native)
    for k in (1, 10, 41, 300):
        position, distance = index.search(queries, k)
        wanted, wanted_distance = by_hand(codes, queries, k)
        np.testing.assert_array_equal(position.numpy(), wanted)
        np.testing.assert_array_equal(distance.numpy(), wanted_distance)


@needs_faiss
def test_faiss_and_torch_agree_over_many_blocks() -> None:
    """More codes than either looks at in one piece."""
    codes = many_ties(150_000, 1, 500, 0)
    queries = many_ties(6, 1, 6, 1)
    one, two = (HammingIndex(codes, native=native).search(queries, 257) for native in (True, False))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])


@needs_faiss
@pytest.mark.parametrize(("kind", "probes"), [("ivf", 10_000), ("hash", 2), ("hnsw", 256)])
def test_approximate_kinds(kind: HammingKind, probes: int) -> None:
    """Real distances in order, ties by position, no repeats, and most of the truth; all lists visited is exact."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randint(-(2**63), 2**63 - 1, (40, 2), generator=generator)
    codes = centres[torch.randint(40, (4_000,), generator=generator)]
    for _ in range(8):
        codes[:, 1] ^= 1 << torch.randint(62, (4_000,), generator=generator)
    queries = codes[::100].contiguous()
    position, distance = HammingIndex(codes, kind=kind, probes=probes).search(queries, 20)
    wanted, wanted_distance = HammingIndex(codes).search(queries, 20)
    assert torch.equal(hamming_index.hamming(queries[:, None], codes[position]), distance)
    assert bool((position.sort(1).values.diff(dim=1) > 0).all())
    key = distance * len(codes) + position
    assert bool((key.diff(dim=1) > 0).all())
    if kind == "ivf":
        assert torch.equal(position, wanted)
        assert torch.equal(distance, wanted_distance)
    assert float((position[:, :, None] == wanted[:, None]).any(2).float().mean()) > 0.7


@needs_faiss
def test_no_list_is_short() -> None:
    """One bucket visited has fewer codes than asked for: the query is answered by flat."""
    codes = many_ties(3_000, 1, 3_000, 0)
    found, wanted = (HammingIndex(codes, kind=kind).search(codes[:7], 2_000) for kind in ("hash", "flat"))
    assert torch.equal(found[0], wanted[0])


def test_without_faiss_torch_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("FAISS is not installed")

    monkeypatch.setattr(hamming_index, "import_faiss", missing)
    hamming_index._faiss_keeps_order.cache_clear()
    try:
        codes = many_ties(50, 1, 5, 0)
        index = HammingIndex(codes)
        np.testing.assert_array_equal(index.search(codes[:3], 4)[0].numpy(), by_hand(codes, codes[:3], 4)[0])
        with pytest.raises(ImportError, match="FAISS is not installed"):
            HammingIndex(codes, native=True)
        with pytest.raises(ImportError, match="FAISS is not installed"):
            HammingIndex(codes, kind="ivf")
    finally:
        hamming_index._faiss_keeps_order.cache_clear()


def test_empty_and_refusals() -> None:
    none = HammingIndex(torch.zeros(0, 1, dtype=torch.int64))
    assert none.search(torch.zeros(3, 1, dtype=torch.int64), 4)[0].shape == (3, 0)
    with pytest.raises(ValueError, match="kind='tree': known are flat, ivf, hash, hnsw"):
        HammingIndex(torch.zeros(2, 1, dtype=torch.int64), kind="tree")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"need codes \[n, W\] of int64"):
        HammingIndex(torch.zeros(2, 1))
