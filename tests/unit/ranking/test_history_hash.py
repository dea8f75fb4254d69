from __future__ import annotations

import math

import pytest
import torch

from corral.ranking.history_hash import HistoryHash


def test_bits_are_the_signs_of_the_projections() -> None:
    vectors = torch.randn(3, 4, 5)
    hashed = HistoryHash(5, 70, seed=3)
    found = hashed(vectors)
    assert found.shape == (3, 4, 70)
    for b in range(3):
        for j in range(4):
            for bit in range(70):
                product = float(vectors[b, j].double() @ hashed.projection[:, bit].double())
                assert bool(found[b, j, bit]) == (product >= 0) or abs(product) < 1e-6


def test_bits_agree_as_often_as_the_angle_says() -> None:
    hashed = HistoryHash(2, 20_000)
    for degrees in (0, 30, 90, 150):
        angle = math.radians(degrees)
        pair = torch.tensor([[1.0, 0.0], [5 * math.cos(angle), 5 * math.sin(angle)]])
        agree = (hashed(pair)[0] == hashed(pair)[1]).float().mean().item()
        assert abs(agree - (1 - angle / math.pi)) < 0.015


def test_the_seed_is_all_there_is_to_it() -> None:
    first, again, other = (HistoryHash(4, 16, seed=seed).projection for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not list(HistoryHash(4, 16).parameters())


def test_low_precision_does_not_change_the_bits() -> None:
    vectors, hashed = torch.randn(200, 8), HistoryHash(8, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = hashed(vectors)
    assert torch.equal(low, hashed(vectors))


def test_no_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="bits=0"):
        HistoryHash(4, 0)
