"""SimHash beyond the paper: packed words against naive bits, centring, seeds, state."""

from __future__ import annotations

import pytest
import torch

from corral.rar.inner_product_hash import InnerProductHash
from corral.rar.simhash import SimHash, count_bits, hamming, pack_bits


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_count_bits_is_the_naive_count_for_negative_words_too() -> None:
    edge = [
        0,
        1,
        -1,
        -2,
        2**63 - 1,
        -(2**63),
        -(2**63) + 1,
        1 << 62,
        -(1 << 62),
        0x5555555555555555,
        -0x5555555555555556,
    ]
    words = torch.tensor(edge)
    random = torch.randint(-(2**63), 2**63 - 1, (500,), generator=seeded(0))
    for given in (words, random):
        before = given.clone()
        wanted = [bin(word & (2**64 - 1)).count("1") for word in given.tolist()]
        assert count_bits(given).tolist() == wanted
        assert torch.equal(given, before)


@pytest.mark.parametrize("bits", [1, 5, 8, 63, 64, 65, 100, 128, 200])
def test_packed_hamming_is_the_count_of_different_signs(bits: int) -> None:
    hashes = SimHash(7, bits, seed=2, centre=False)
    a, b = torch.randn(9, 7, generator=seeded(1)), torch.randn(11, 7, generator=seeded(2))
    signs = [vectors @ hashes.projection >= 0 for vectors in (a, b)]
    wanted = (signs[0][:, None] != signs[1][None]).sum(2)
    codes = hashes.codes(a), hashes.codes(b)
    assert codes[0].shape == (9, -(-bits // 64))
    assert codes[0].dtype == torch.int64
    assert torch.equal(hamming(codes[0][:, None], codes[1][None]), wanted)


def test_bit_j_is_bit_j_of_the_word_and_the_rest_is_zero() -> None:
    bits = torch.zeros(3, 70, dtype=torch.bool)
    bits[0, 0] = bits[0, 9] = bits[1, 63] = bits[2, 69] = True
    assert pack_bits(bits).tolist() == [[1 + 2**9, 0], [-(2**63), 0], [0, 2**5]]


def test_one_seed_one_projection() -> None:
    one, same, other = (SimHash(5, 64, seed=seed) for seed in (1, 1, 2))
    torch.rand(3)
    assert torch.equal(one.projection, same.projection)
    assert not torch.equal(one.projection, other.projection)
    assert not list(one.parameters())


def test_centring_takes_the_pools_mean_out_of_pool_and_queries() -> None:
    pool, queries = torch.randn(40, 6, generator=seeded(3)) + 5, torch.randn(4, 6, generator=seeded(4)) + 5
    centred, plain = SimHash(6, 128, seed=0), SimHash(6, 128, seed=0, centre=False)
    centred.fit(pool)
    plain.fit(pool)
    for vectors in (pool, queries):
        assert torch.equal(centred.query_codes(vectors), plain.codes(vectors - pool.mean(0)))


def test_the_inner_products_hash_never_centres_queries() -> None:
    pool, query = torch.randn(40, 6, generator=seeded(3)) + 5, torch.randn(4, 6, generator=seeded(4))
    one, other = InnerProductHash(6, 128, seed=0), InnerProductHash(6, 128, seed=0, centre=False)
    one.fit(pool)
    other.fit(pool)
    assert torch.equal(one.query_codes(query), other.query_codes(query))
    assert not torch.equal(one.codes(pool), other.codes(pool))
    assert float(other.radius) == pytest.approx(float(pool.norm(dim=1).max()))


def test_codes_do_not_depend_on_blocks_or_autocast() -> None:
    hashes = SimHash(6, 4_000_000 // 1_000, seed=0)
    vectors = torch.randn(2_500, 6, generator=seeded(5))
    whole = hashes.codes(vectors)
    assert torch.equal(whole[-3:], hashes.codes(vectors[-3:]))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(hashes.codes(vectors[:50]), whole[:50])
    assert hashes.codes(vectors[:0]).shape == (0, 63)


def test_state_round_trip_and_refusal() -> None:
    hashes = SimHash(6, 100, seed=7)
    hashes.fit(torch.randn(30, 6, generator=seeded(0)) + 1)
    fresh = SimHash(0, 100, seed=7)
    fresh.load_state_dict(hashes.state_dict())
    vectors = torch.randn(5, 6, generator=seeded(1))
    assert torch.equal(fresh.codes(vectors), hashes.codes(vectors))
    for other in (SimHash(6, 100, seed=8), SimHash(6, 99, seed=7), SimHash(6, 100, seed=7, centre=False)):
        with pytest.raises(ValueError, match=r"made with \[seed, bits, centred\] = \[7, 100, 1\]"):
            other.load_state_dict(hashes.state_dict())


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="bits=0"):
        SimHash(3, 0, seed=0)
    with pytest.raises(ValueError, match=r"need vectors \[n, 3\], got \[2, 4\]"):
        SimHash(3, 8, seed=0).codes(torch.zeros(2, 4))
