"""RetrieverChannel, and channels merged against a merge in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from corral.data.batches import Query
from corral.data.candidates import Candidates
from corral.retrieval.channels import ColdStartChannel, MergedChannel, RecallChannel, RetrieverChannel, merge
from corral.retrieval.index import ExactIndex
from corral.retrieval.popularity import PopularityChannel


def query(users: list[int]) -> Query:
    n = len(users)
    return Query(torch.tensor(users), torch.full((n,), -1), torch.zeros(n, 3).long(), torch.zeros(n).long())


class UserTable:
    """Query vector = a fixed vector of the user."""

    def encode_queries(self, query: Query) -> Tensor:
        return torch.eye(4)[query.user]


def retriever_channel() -> RetrieverChannel:
    # user u likes item u + 2 best, then the others by row
    return RetrieverChannel(UserTable(), ExactIndex(torch.eye(4), torch.arange(2, 6)), name="table")


def test_retriever_channel() -> None:
    channel = retriever_channel()
    assert isinstance(channel, RecallChannel)
    found = channel.recall(query([0, 3]), 3)
    assert found.items.tolist() == [[2, 3, 4], [5, 2, 3]]
    assert found.scores.tolist() == [[1, 0, 0], [1, 0, 0]]
    exclude = torch.tensor([[2], [0]])
    allow = torch.tensor([False, False, True, True, False, True])
    assert channel.recall(query([0, 3]), 3, exclude, allow).items.tolist() == [[3, 5, 0], [5, 2, 3]]


def test_rows_beyond_the_end_of_allow_are_not_allowed() -> None:
    """For those with a history and for newcomers alike, whose items are the popular ones."""
    popularity = PopularityChannel(torch.tensor([0.0, 0.0, 1.0, 4.0, 3.0, 2.0]))
    channel, some = ColdStartChannel(retriever_channel(), popularity), query([0, 3, 1])
    some.history[0, -1] = 2
    for allow, wanted in (
        ([1, 1, 1, 1, 1], [[2, 3, 4], [3, 4, 2]]),
        ([0, 0, 0, 1], [[3, 0, 0], [3, 0, 0]]),
        ([], [[0] * 3] * 2),
    ):
        found = channel.recall(some, 3, None, torch.tensor(allow, dtype=torch.bool)).items
        assert found.tolist() == [wanted[0], wanted[1], wanted[1]]


def candidates(lists: list[list[int]], width: int) -> Candidates:
    rows = [one + [0] * (width - len(one)) for one in lists]
    items = torch.tensor(rows, dtype=torch.int64).view(len(lists), width)
    scores = torch.arange(width, 0, -1).float().expand(len(lists), -1) * 10
    return Candidates(items, torch.where(items != 0, scores, -torch.inf))


def by_hand(lists: list[list[int]], k: int, quotas: list[int] | None) -> list[int]:
    turns = sorted(
        (quotas is not None and place >= quotas[channel], place, channel, item)
        for channel, one in enumerate(lists)
        for place, item in enumerate(one)
    )
    return list(dict.fromkeys(item for *_, item in turns))[:k]


def test_merge_takes_turns_and_keeps_scores() -> None:
    first, second = candidates([[7, 8, 9]], 3), candidates([[8, 5]], 2)
    merged = merge([first, second], 6, ["a", "b"])
    assert merged.candidates.items.tolist() == [[7, 8, 5, 9, 0, 0]]
    assert merged.candidates.scores.tolist() == [[0, -1, -2, -3, -math.inf, -math.inf]]
    nan = math.nan
    wanted = torch.tensor([[30, nan], [20, 20], [nan, 10], [10, nan], [nan, nan], [nan, nan]])
    torch.testing.assert_close(merged.channel_scores[0], wanted, equal_nan=True)
    assert merged.names == ("a", "b")


def test_quotas() -> None:
    lists = [candidates([[2, 3, 4, 5]], 4), candidates([[6, 7, 8, 9]], 4)]
    assert merge(lists, 5, ["a", "b"], [3, 1]).candidates.items.tolist() == [[2, 6, 3, 4, 7]]
    # what one cannot fill, the other does
    short = [candidates([[2]], 4), candidates([[6, 7, 8, 9]], 4)]
    assert merge(short, 4, ["a", "b"], [3, 1]).candidates.items.tolist() == [[2, 6, 7, 8]]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_merge_equals_merging_by_hand(data: st.DataObject) -> None:
    n_queries, n_channels = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    one = st.lists(st.integers(2, 12), max_size=7, unique=True)
    lists = [[data.draw(one) for _ in range(n_queries)] for _ in range(n_channels)]
    widths = [max(map(len, channel), default=0) + data.draw(st.integers(0, 2)) for channel in lists]
    k = data.draw(st.integers(1, 25))
    quotas = data.draw(st.none() | st.lists(st.integers(0, 8), min_size=n_channels, max_size=n_channels))
    given_lists = [candidates(channel, width) for channel, width in zip(lists, widths, strict=True)]
    merged = merge(given_lists, k, [str(number) for number in range(n_channels)], quotas)
    for place in range(n_queries):
        wanted = by_hand([channel[place] for channel in lists], k, quotas)
        assert merged.candidates.items[place].tolist() == wanted + [0] * (k - len(wanted))
        for column, item in enumerate(wanted):
            for number, channel in enumerate(given_lists):
                score = float(merged.channel_scores[place, column, number])
                at = (channel.items[place] == item).nonzero()
                assert math.isnan(score) if not len(at) else score == float(channel.scores[place, at[0, 0]])
        assert merged.channel_scores[place, len(wanted) :].isnan().all()


def test_merged_channel_keeps_k() -> None:
    channel = MergedChannel([retriever_channel(), PopularityChannel(torch.tensor([0, 0, 1, 5, 3, 2, 9, 8]))])
    assert isinstance(channel, RecallChannel)
    merged = channel.recall_merged(query([0, 3]), 6)
    assert merged.candidates.items.tolist() == [[2, 6, 3, 7, 4, 5], [5, 6, 2, 7, 3, 4]]
    assert merged.names == ("table", "popularity")
    exclude = torch.tensor([[2, 6, 3], [0, 0, 7]])
    assert channel.recall(query([0, 3]), 6, exclude).mask.sum(dim=1).tolist() == [3, 5]


def test_bad_merges_are_refused() -> None:
    popular = PopularityChannel(torch.zeros(4))
    with pytest.raises(ValueError, match="at least one channel"):
        MergedChannel([])
    with pytest.raises(ValueError, match="different names"):
        MergedChannel([popular, popular])
    with pytest.raises(ValueError, match="quota"):
        MergedChannel([popular], [1, 2])
