"""order_statistic against sorting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.data import order_statistic as module
from corral.data.order_statistic import chunks, order_statistic


@given(values=st.lists(st.integers(0, 2**62), min_size=1, max_size=40), share=st.floats(0, 1))
def test_the_value_at_a_place(values: list[int], share: float) -> None:
    place = min(int(share * len(values)), len(values) - 1)
    assert order_statistic(np.array(values), place) == sorted(values)[place]


def test_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_ROWS", 7)
    values = np.random.default_rng(0).zipf(1.2, 50).clip(max=2**40)
    assert [order_statistic(values, place) for place in range(50)] == sorted(values.tolist())
    assert [values[rows].tolist() for rows in chunks(16)] == [
        values[:7].tolist(),
        values[7:14].tolist(),
        values[14:16].tolist(),
    ]
    assert list(chunks(0)) == []
