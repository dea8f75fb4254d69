"""PopularityChannel against sorting in Python."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.data.batches import Query
from corral.retrieval.channels import RecallChannel
from corral.retrieval.popularity import PopularityChannel

COUNTS = torch.tensor([99, 98, 3, 0, 7, 3, 1])


def query(n: int) -> Query:
    return Query(torch.ones(n).long(), torch.full((n,), -1), torch.zeros(n, 4).long(), torch.zeros(n).long())


def test_order_ties_and_padding() -> None:
    channel = PopularityChannel(COUNTS)
    assert isinstance(channel, RecallChannel)
    found = channel.recall(query(2), 7)
    assert found.items.tolist() == [[4, 2, 5, 6, 3, 0, 0]] * 2
    assert found.scores[0].tolist() == [7, 3, 3, 1, 0, -torch.inf, -torch.inf]


def test_reserved_rows_never_come() -> None:
    assert not (PopularityChannel(COUNTS).recall(query(1), 5).items < 2).any()


def test_counting() -> None:
    channel = PopularityChannel.of_items(torch.tensor([2, 4, 4, 3, 4]), rows=7)
    assert channel.counts.tolist() == [0, 0, 1, 1, 3, 0, 0]
    assert channel.recall(query(1), 2).items.tolist() == [[4, 2]]


def test_is_a_snapshot() -> None:
    counts = COUNTS.float()
    channel = PopularityChannel(counts)
    counts.zero_()
    assert channel.recall(query(1), 1).items.tolist() == [[4]]


def test_unanswerable_is_refused() -> None:
    channel = PopularityChannel(COUNTS)
    with pytest.raises(ValueError, match="k must be at least 1"):
        channel.recall(query(1), 0)
    with pytest.raises(ValueError, match=r"need exclude \[2, E\]"):
        channel.recall(query(2), 1, torch.zeros((3, 1), dtype=torch.int64))
    with pytest.raises(ValueError, match="counts"):
        PopularityChannel(torch.zeros(1))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_filters_keep_k(data: st.DataObject) -> None:
    n = data.draw(st.integers(0, 30), label="n")
    counts = torch.tensor([0, 0, *data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))])
    width, k = data.draw(st.integers(0, 40), label="E"), data.draw(st.integers(1, 40), label="k")
    row = st.integers(-2, n + 5)
    exclude = torch.tensor(
        data.draw(st.lists(st.lists(row, min_size=width, max_size=width), min_size=2, max_size=2)),
        dtype=torch.int64,
    ).view(2, width)
    allowed = data.draw(st.none() | st.lists(st.booleans(), max_size=n + 4), label="allow")
    allow = None if allowed is None else torch.tensor(allowed, dtype=torch.bool)
    found = PopularityChannel(counts, block_bytes=1).recall(query(2), k, exclude, allow)
    for place in range(2):
        gone = set(exclude[place].tolist())
        left = [
            item
            for item in range(2, n + 2)
            if item not in gone and (allowed is None or (item < len(allowed) and allowed[item]))
        ]
        wanted = sorted(left, key=lambda item: (-int(counts[item]), item))[:k]
        assert found.items[place].tolist() == wanted + [0] * (k - len(wanted))
