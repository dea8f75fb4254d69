"""SimHash: one sign bit per random direction, packed; two vectors agree on a bit with probability 1 - angle / pi.

Charikar, STOC 2002; RAR, section 1. Shape letters: n vectors, D vector size, m bits, W = ceil(m / 64) words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from corral.data.tables import Tables

WORD = 64
# Masks of alternating one, two and four bits; all positive as int64, see ``count_bits``.
_ONES, _TWOS, _FOURS, _BYTES = 0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F, 0x0101010101010101
# Bound on the memory of the projections that are made at a time.
_PROJECTION_BYTES = 16 << 20


class SimHash(Tables):
    """h(e) = 1[(e - mean) A >= 0], A [D, m] Gaussian, drawn once from the seed and never trained.

    Orders by the cosine of what it is given. A mean shared by all vectors says nothing of who is alike and takes most
    bits: ``fit`` takes the pool's mean out of pool and queries. Everything is a buffer, so that codes made here
    can be compared with those of another process; weights of another seed or number of bits are refused.

    Args:
        size: D; 0 for one that is loaded into.
        bits: m; those missing to the next multiple of 64 are 0 in all codes.
        seed: of A.
        centre: whether ``fit`` takes the mean out.
    """

    projection: Tensor
    mean: Tensor
    origin: Tensor

    def __init__(self, size: int, bits: int, *, seed: int, centre: bool = True) -> None:
        super().__init__()
        if bits < 1 or size < 0:
            raise ValueError(f"bits={bits} and size={size}: need at least one bit and no negative size")
        self.bits, self.seed, self.centre = bits, seed, centre
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("projection", torch.randn(size, bits, generator=generator))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("origin", torch.tensor([seed, bits, int(centre)]))

    @property
    def size(self) -> int:
        """D."""
        return len(self.projection)

    @property
    def words(self) -> int:
        """W."""
        return -(-self.bits // WORD)

    @torch.no_grad()
    def fit(self, vectors: Tensor) -> None:
        """Takes the mean of the pool [n, D], where codes are centred."""
        if self.centre and len(vectors):
            self.mean.copy_(vectors.float().mean(0))

    @torch.no_grad()
    def codes(self, vectors: Tensor) -> Tensor:
        """Fingerprints [n, W], int64, of vectors [n, D]: bit j in bit j % 64 of word j // 64."""
        if vectors.ndim != 2 or vectors.shape[1] != self.size:
            raise ValueError(f"need vectors [n, {self.size}], got {list(vectors.shape)}")
        rows = max(1, _PROJECTION_BYTES // (4 * self.bits))
        blocks = [self._block(block) for block in vectors.split(rows)] if len(vectors) else []
        return torch.cat([torch.zeros(0, self.words, dtype=torch.int64, device=vectors.device), *blocks])

    def query_codes(self, queries: Tensor) -> Tensor:
        """Fingerprints [q, W], int64, of queries [q, D]: the same as those of the pool."""
        return self.codes(queries)

    def _block(self, vectors: Tensor) -> Tensor:
        # Under autocast signs would be those of bfloat16: other codes in training than when serving.
        with torch.autocast(vectors.device.type, enabled=False):
            signs = (vectors.float() - self.mean) @ self.projection >= 0
        return pack_bits(signs)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        saved, mine = state_dict.get(prefix + "origin"), self.origin.tolist()
        if isinstance(saved, Tensor) and saved.tolist() != mine:
            raise ValueError(
                f"these codes were made with [seed, bits, centred] = {saved.tolist()}, not {mine}: "
                f"build the selector with the settings it was saved with, or fit it anew"
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)


def pack_bits(bits: Tensor) -> Tensor:
    """Bits [n, m], bool, as words [n, ceil(m / 64)], int64; missing bits are 0."""
    n, m = bits.shape
    words = -(-m // WORD)
    if m % WORD:
        bits = torch.nn.functional.pad(bits, (0, words * WORD - m))
    # Bytes first: eight times less memory than shifting in int64. Byte i of a word is worth 256**i (little endian).
    place = 1 << torch.arange(8, dtype=torch.uint8, device=bits.device)
    packed = (bits.contiguous().view(torch.uint8).view(n, words * 8, 8) * place).sum(2, dtype=torch.uint8)
    return packed.view(torch.int64)


def count_bits(words: Tensor) -> Tensor:
    """How many bits are set in each word: int64 of the same shape.

    Shifts of negative numbers bring in ones from the left; the masks drop them, and after the first step no word
    is negative where it matters.
    """
    # In place but for the first step: most of the time goes into fresh memory otherwise.
    half = words >> 1
    words = words - half.bitwise_and_(_ONES)
    torch.bitwise_right_shift(words, 2, out=half)
    words.bitwise_and_(_TWOS).add_(half.bitwise_and_(_TWOS))
    torch.bitwise_right_shift(words, 4, out=half)
    return words.add_(half).bitwise_and_(_FOURS).mul_(_BYTES).bitwise_right_shift_(56)


def hamming(codes_a: Tensor, codes_b: Tensor) -> Tensor:
    """Bits that differ [..], int64, between codes [.., W] that broadcast; the agreement is m - hamming."""
    return count_bits(codes_a ^ codes_b).sum(-1)
