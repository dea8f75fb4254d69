"""Recall channels: where candidates come from, and several of them merged into one list.

Shape letters: B queries, T list length, C channels, E exclusions per query, S = the channels' lists in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from corral.data.batches import Query
from corral.data.candidates import Candidates
from corral.retrieval.index import ItemIndex
from corral.retrieval.popularity import PopularityChannel
from corral.retrieval.retriever import Retriever


@runtime_checkable
class RecallChannel(Protocol):
    """Gives candidates for queries: a retriever with its index, co-visitation, popularity."""

    name: str

    def recall(self, query: Query, k: int, exclude: Tensor | None = None, allow: Tensor | None = None) -> Candidates:
        """The channel's k best items for each query.

        Args:
            query: B queries.
            k: list length, >= 1.
            exclude: item rows never to return [B, E], int64, 0 = none.
            allow: [rows] bool by item row: only items with True are returned.

        Returns:
            items and scores [B, k]; the list is shorter (padded) only where the channel has no more items.
        """


class RetrieverChannel:
    """A retriever and the index of its item vectors, as a ``RecallChannel``.

    Args:
        retriever: encodes the queries; put it in eval mode before, for answers without dropout.
        index: a snapshot of the same retriever's item vectors.
        name: the channel's name in merged candidates and reports.
    """

    def __init__(self, retriever: Retriever, index: ItemIndex, name: str = "retriever") -> None:
        self.retriever, self.index, self.name = retriever, index, name

    @torch.no_grad()
    def recall(self, query: Query, k: int, exclude: Tensor | None = None, allow: Tensor | None = None) -> Candidates:
        """The k items of greatest inner product with the encoded queries; see ``RecallChannel``."""
        return self.index.search(self.retriever.encode_queries(query), k, exclude, allow)

    @torch.no_grad()
    def score(self, query: Query, items: Tensor) -> Tensor:
        """What ``recall`` says of given items: scores [B, N] of item rows [B, N], in the index or not."""
        vectors = self.retriever.encode_items(items)
        return torch.einsum("bnd,bd->bn", vectors.float(), self.retriever.encode_queries(query).float())


class ColdStartChannel:
    """A retriever's channel, with popular items for queries without any history. A ``RecallChannel``.

    The same object recalls in evaluation and in serving, so that what is measured is what is served.

    Args:
        channel: for everybody else.
        popularity: train counts; only items of the channel's index are recommended.
    """

    def __init__(self, channel: RetrieverChannel, popularity: PopularityChannel) -> None:
        self.channel, self.popularity = channel, popularity
        self.name, self.retriever = channel.name, channel.retriever
        self._indexed = popularity.among(channel.index.items)

    @staticmethod
    def cold(query: Query) -> Tensor:
        """True [B] where nothing is known of the user: no history."""
        if query.history.shape[1] == 0:
            return torch.ones(len(query), dtype=torch.bool, device=query.user.device)
        return query.history[:, -1] == 0

    @torch.no_grad()
    def recall(self, query: Query, k: int, exclude: Tensor | None = None, allow: Tensor | None = None) -> Candidates:
        """As ``RetrieverChannel.recall``; the scores of popular items are their train counts."""
        cold = self.cold(query)
        if not cold.any():
            return self.channel.recall(query, k, exclude, allow)
        hidden = None if exclude is None else exclude[cold]
        popular = self._indexed.most_popular(int(cold.sum()), k, hidden, allow)
        items = torch.zeros(len(query), k, dtype=torch.int64, device=query.user.device)
        scores = torch.full((len(query), k), -torch.inf, device=query.user.device)
        items[cold], scores[cold] = popular.items.to(items.device), popular.scores.to(scores.device)
        if not cold.all():
            hidden = None if exclude is None else exclude[~cold]
            known = self.channel.recall(query.where(~cold), k, hidden, allow)
            items[~cold], scores[~cold] = known.items, known.scores.to(scores.dtype)
        return Candidates(items, scores)

    @torch.no_grad()
    def score(self, query: Query, items: Tensor) -> Tensor:
        """As ``RetrieverChannel.score``; for queries without any history the items' train counts."""
        known = self._indexed.counts
        counts = known[items.to(known.device)].to(items.device)
        return torch.where(self.cold(query)[:, None], counts, self.channel.score(query, items))


@dataclass(frozen=True)
class MergedCandidates:
    """Candidates of several channels as one list without repeats, and what each channel said of them.

    Attributes:
        candidates: items [B, T] in merged order. Channels' scores cannot be compared with each other, so
            the merged score is minus the place in the list: 0, -1, -2 ...
        channel_scores: [B, T, C], the score each channel gave the item; NaN where the channel did not
            return it, and at padding.
        names: the C channels' names.
    """

    candidates: Candidates
    channel_scores: Tensor
    names: tuple[str, ...]


class MergedChannel:
    """Several channels as one ``RecallChannel``.

    Args:
        channels: asked in this order, which also decides who comes first in each turn.
        quotas: how many items each channel may bring before the others have brought theirs; None = all
            take turns.
        name: the channel's name.
    """

    def __init__(
        self, channels: Sequence[RecallChannel], quotas: Sequence[int] | None = None, name: str = "merged"
    ) -> None:
        if not channels:
            raise ValueError("need at least one channel to merge")
        names = [channel.name for channel in channels]
        if len(set(names)) < len(names):
            raise ValueError(f"channels need different names, got {names}")
        if quotas is not None and (len(quotas) != len(channels) or min(quotas) < 0):
            raise ValueError(f"need one quota >= 0 for each of {names}, got {list(quotas)}")
        self.channels, self.quotas, self.name = tuple(channels), quotas, name

    def recall(self, query: Query, k: int, exclude: Tensor | None = None, allow: Tensor | None = None) -> Candidates:
        """The merged list; see ``RecallChannel``."""
        return self.recall_merged(query, k, exclude, allow).candidates

    def recall_merged(
        self, query: Query, k: int, exclude: Tensor | None = None, allow: Tensor | None = None
    ) -> MergedCandidates:
        """The merged list with each channel's scores. Every channel is asked for k, so that k is kept."""
        lists = [channel.recall(query, k, exclude, allow) for channel in self.channels]
        return merge(lists, k, [channel.name for channel in self.channels], self.quotas)


def merge(
    lists: Sequence[Candidates], k: int, names: Sequence[str], quotas: Sequence[int] | None = None
) -> MergedCandidates:
    """Merge candidates of C channels: in turns, without repeats, each channel's score kept.

    In turns: everybody's first, everybody's second, and so on. With quotas the first ``quotas[c]`` of each
    channel go in turns before all that is over, so a quota is a guarantee, not a bound: what one channel
    cannot fill, the others do. An item stands where it would come first. No Python over queries.

    Args:
        lists: C candidate lists [B, T_c].
        k: length of the merged list, >= 1.
        names: the C channels' names.
        quotas: C numbers >= 0, or None.

    Returns:
        lists of length k, padded at the end.
    """
    assert len(lists) == len(names), (len(lists), len(names))
    assert k >= 1, k
    items = torch.cat([one.items for one in lists], dim=1)
    scores = torch.cat([one.scores for one in lists], dim=1)
    device, (n_queries, total) = items.device, items.shape
    lengths = [one.items.shape[1] for one in lists]
    channel = torch.repeat_interleave(torch.arange(len(lists)), torch.tensor(lengths))
    place = torch.cat([torch.arange(length) for length in lengths])
    late = torch.zeros_like(place)
    if quotas is not None:
        assert len(quotas) == len(lists), (len(quotas), len(lists))
        late = (place >= torch.tensor(list(quotas))[channel]).long()
    longest = max(lengths, default=0)
    turn = ((late * (longest + 1) + place) * len(lists) + channel).argsort().to(device)
    items, scores, channel = items[:, turn], scores[:, turn], channel.to(device)[turn]

    # equal items side by side, the earliest first (stable): its group number names the item from here on
    by_item, order = items.sort(dim=1, stable=True)
    new = torch.ones_like(by_item, dtype=torch.bool)
    new[:, 1:] = by_item[:, 1:] != by_item[:, :-1]
    group = torch.empty_like(items).scatter_(1, order, new.cumsum(dim=1) - 1)
    first = torch.empty_like(new).scatter_(1, order, new) & (items != 0)
    said = torch.full((n_queries, total * len(lists)), torch.nan, device=device)
    said.scatter_(1, group * len(lists) + channel, scores.to(said.dtype))
    said = said.view(n_queries, total, len(lists))

    width = min(k, total)
    columns = (~first).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
    there = first.gather(1, columns)
    merged_items = torch.zeros((n_queries, k), dtype=torch.int64, device=device)
    merged_items[:, :width] = torch.where(there, items.gather(1, columns), 0)
    of_item = group.gather(1, columns)[:, :, None].expand(-1, -1, len(lists))
    channel_scores = torch.full((n_queries, k, len(lists)), torch.nan, device=device)
    channel_scores[:, :width] = torch.where(there[:, :, None], said.gather(1, of_item), torch.nan)
    falling = -torch.arange(k, dtype=torch.float32, device=device).expand(n_queries, -1)
    merged_scores = torch.where(merged_items != 0, falling, -torch.inf)
    return MergedCandidates(Candidates(merged_items, merged_scores), channel_scores, tuple(names))
