"""HammingIndex: the codes with the fewest differing bits, by FAISS's binary indexes or by torch.

Shape letters: n codes, q queries, W words of 64 bits.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from corral.rar.simhash import WORD, hamming, pack_bits
from corral.retrieval.faiss_index import TRAIN_VECTORS_PER_LIST, import_faiss

# flat: all codes, exact. ivf: cells around k-medians. hash: buckets of equal first bits. hnsw: a graph.
HammingKind = Literal["flat", "ivf", "hash", "hnsw"]
# Words compared at a time by torch: what fits a core's cache is fastest.
_WORDS = 1 << 16
# How much more is fetched from approximate indexes, so that ties at the edge are cut by position and not by chance.
_MORE = 32


class HammingIndex:
    """Codes, searched by Hamming distance; equal distances by position, ascending.

    ``flat`` is exact, and FAISS and torch give the same answer. The others visit some of the codes (FAISS only); a
    query for which they find fewer than k is answered by ``flat``, so that no list is short while codes remain.

    Cost per query: flat n W words read and about a nanosecond a code by FAISS, about seven and more by torch on a CPU;
    ivf that of ``probes`` lists of n / lists. Built without a copy for torch, with one (8 W n bytes) for FAISS.

    Args:
        codes: [n, W], int64; not copied.
        kind: how they are searched.
        probes: ivf: lists visited; hash: bits of the bucket that may differ; hnsw: breadth of the search;
            0 = a default.
        native: search flat by FAISS; None: where it is installed and codes are on the CPU.

    Raises:
        ValueError: an unknown kind, or codes that FAISS cannot search.
        ImportError: FAISS is asked for and not installed.
    """

    def __init__(
        self, codes: Tensor, *, kind: HammingKind = "flat", probes: int = 0, native: bool | None = None
    ) -> None:
        if kind not in get_args(HammingKind):
            raise ValueError(f"kind={kind!r}: known are {', '.join(get_args(HammingKind))}")
        if codes.ndim != 2 or codes.dtype != torch.int64:
            raise ValueError(f"need codes [n, W] of int64, got {list(codes.shape)} of {codes.dtype}")
        if native and codes.device.type != "cpu":
            raise ValueError(f"FAISS searches codes on the CPU; these are on {codes.device}")
        self.codes, self.kind = codes, kind
        if native is None:
            native = codes.device.type == "cpu" and _faiss_keeps_order(codes.shape[1])
        self._flat = _fill(import_faiss().IndexBinaryFlat(WORD * codes.shape[1]), codes) if native else None
        if self._flat is not None:
            # Counting is faster than a heap where distances are small whole numbers.
            self._flat.use_heap = False
        self._fast = None if kind == "flat" else _approximate(codes.cpu(), kind, probes)

    def __len__(self) -> int:
        return len(self.codes)

    @torch.no_grad()
    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Positions and distances [q, min(k, n)], int64, of the nearest codes, nearest first.

        Args:
            queries: [q, W], int64, on the codes' device.
            k: at least 1.
        """
        k = min(k, len(self))
        if not k or not len(queries):
            none = torch.zeros(len(queries), k, dtype=torch.int64, device=queries.device)
            return none, none.clone()
        if self._fast is None:
            return self._exactly(queries, k)
        fetched, at = _ask(self._fast, queries.cpu(), min(k + _MORE, len(self)))
        # -1: nothing more was found
        missing = at < 0
        key = torch.where(missing, torch.iinfo(torch.int64).max, fetched * len(self) + at).sort(1).values[:, :k]
        distance, position = (part.to(queries.device) for part in (key // len(self), key % len(self)))
        short = ((~missing).sum(1) < k).nonzero().flatten().to(queries.device)
        if len(short):
            position[short], distance[short] = self._exactly(queries[short], k)
        return position, distance

    def _exactly(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        if self._flat is None:
            return self._by_torch(queries, k)
        distance, position = _ask(self._flat, queries, k)
        return position, distance

    def _by_torch(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Block by block; distance * n + position is unique, so that top-k has no ties to break."""
        n, words = self.codes.shape
        rows = min(len(queries), 16)
        width = max(k, _WORDS // (rows * words))
        key = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
        for start in range(0, len(queries), rows):
            asked = queries[start : start + rows, None]
            best = torch.zeros(len(asked), 0, dtype=torch.int64, device=queries.device)
            for low in range(0, n, width):
                codes = self.codes[low : low + width]
                found = hamming(asked, codes[None]) * n + torch.arange(low, low + len(codes), device=codes.device)
                both = torch.cat([best, found], 1)
                best = both.topk(min(k, both.shape[1]), largest=False).values
            key[start : start + rows] = best
        return key % n, key // n


def _bytes(codes: Tensor) -> np.ndarray:
    """Codes [n, W] as FAISS reads them: [n, 8 W], uint8."""
    return codes.contiguous().numpy().view(np.uint8).reshape(len(codes), 8 * codes.shape[1])


def _fill(native: Any, codes: Tensor) -> Any:
    """A FAISS index with the codes in it, trained where it needs to be."""
    data = _bytes(codes)
    if len(data):
        native.train(data)
        native.add(data)
    return native


def _ask(native: Any, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Distances and positions [q, k], int64."""
    distance, position = native.search(_bytes(queries), k)
    return torch.from_numpy(distance.astype(np.int64)), torch.from_numpy(position)


def _approximate(codes: Tensor, kind: HammingKind, probes: int) -> Any:
    """A FAISS index that visits some of the codes."""
    faiss, (n, words) = import_faiss(), codes.shape
    bits = WORD * words
    if kind == "hnsw":
        native = faiss.IndexBinaryHNSW(bits, 16)
        native.hnsw.efSearch = probes or 64
    elif kind == "hash":
        # Buckets of about 64 codes; more bits than the first word has would not be bits of a code.
        native = faiss.IndexBinaryHash(bits, max(1, min((max(n, 1) // 64).bit_length(), 24)))
        native.nflip = probes or 2
    else:
        lists = max(1, min(round(n**0.5), n // TRAIN_VECTORS_PER_LIST))
        native = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(bits), bits, lists)
        native.nprobe = min(lists, probes or 32)
        native.cp.max_points_per_centroid = 64
    return _fill(native, codes)


@cache
def _faiss_keeps_order(words: int) -> bool:
    """Whether FAISS is there and its flat search takes the lower position among equals, as torch does here.

    Its versions so far do; it is not promised, so it is tried once a process, on codes that nearly all tie.
    """
    try:
        native = import_faiss().IndexBinaryFlat(WORD * words)
    except ImportError:
        return False
    generator = torch.Generator().manual_seed(0)
    codes = pack_bits(torch.rand(3_000, WORD * words, generator=generator) < 2 / (WORD * words))
    native.use_heap = False
    _fill(native, codes)
    key = hamming(codes[:7, None], codes[None]) * len(codes) + torch.arange(len(codes))
    distance, position = _ask(native, codes[:7], 50)
    return bool((distance * len(codes) + position).equal(key.sort(1).values[:, :50]))
