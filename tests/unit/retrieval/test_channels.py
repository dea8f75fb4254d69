"""RetrieverChannel, and channels merged against a merge in plain Python."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

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


class Constant:
    """The same vector for everybody and everything."""

    def encode_queries(self, query: Query) -> Tensor:
        return torch.zeros(len(query), 2)

    def encode_items(self, items: Tensor) -> Tensor:
        return torch.zeros(*items.shape, 2)


def cold_channel(counts: Tensor, indexed: Tensor) -> ColdStartChannel:
    index = ExactIndex(torch.zeros(len(indexed), 2), indexed)
    return ColdStartChannel(RetrieverChannel(Constant(), index), PopularityChannel(counts))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_newcomers_get_the_most_clicked_items_of_the_index(data: st.DataObject) -> None:
    n, k, width = (data.draw(st.integers(low, 20)) for low in (1, 1, 0))
    counts = [0, 0, *data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))]
    indexed = sorted(data.draw(st.sets(st.integers(2, n + 1), min_size=1)))
    row = st.integers(-1, n + 3)
    excluded = data.draw(st.lists(st.lists(row, min_size=width, max_size=width), min_size=2, max_size=2))
    allow = data.draw(st.none() | st.lists(st.booleans(), max_size=n + 3))
    found = cold_channel(torch.tensor(counts), torch.tensor(indexed)).recall(
        query([0, 0]),
        k,
        torch.tensor(excluded, dtype=torch.int64).view(2, width),
        None if allow is None else torch.tensor(allow, dtype=torch.bool),
    )
    for place, gone in enumerate(excluded):
        left = {item for item in indexed if allow is None or (item < len(allow) and allow[item])} - set(gone)
        wanted = sorted(left, key=lambda item: (-counts[item], item))[:k]
        missing = k - len(wanted)
        assert found.items[place].tolist() == wanted + [0] * missing
        assert found.scores[place].tolist() == [counts[item] for item in wanted] + [-math.inf] * missing


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor of any operation's result."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


@pytest.mark.parametrize("exclude", [None, torch.tensor([[5, 9, 9, 0]])])
def test_a_newcomer_costs_as_much_as_the_list_is_long(exclude: Tensor | None) -> None:
    rows = 5_000
    channel = cold_channel(torch.arange(rows), torch.arange(2, rows))
    with Largest() as largest:
        channel.recall(query([0]), 10, exclude)
        channel.score(query([0]), torch.tensor([[3, 4]]))
    assert 0 < largest.elements < 20


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


def test_scores_of_another_precision_are_merged_in_float32() -> None:
    items = torch.tensor([[2, 3]])
    lists = [Candidates(items, torch.tensor([[2.0, 1.0]], dtype=kind)) for kind in (torch.float64, torch.bfloat16)]
    merged = merge(lists, 2, ("one", "two"))
    assert merged.channel_scores.tolist() == [[[2.0, 2.0], [1.0, 1.0]]]
