"""PopularityChannel: the most clicked items, the same for everybody except for what is excluded.

Shape letters: B queries, E exclusions per query.
"""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor, nn

from corral.data.batches import Query
from corral.data.candidates import Candidates
from corral.data.vocabulary import FIRST_ROW
from corral.retrieval.index import allowed


class PopularityChannel:
    """Items by their number of train events; nothing is learned. A ``RecallChannel``.

    Every item row of the catalogue can be recalled, those without a train event last, so that exclusion
    does not lose k while items remain. Equal counts are ordered by item row ascending.

    Args:
        counts: train events by item row [rows], of any real dtype; rows 0 and 1 are reserved and ignored.
        name: the channel's name in merged candidates and reports.
        block_bytes: bound on the working memory of one block of queries.
    """

    def __init__(self, counts: Tensor, *, name: str = "popularity", block_bytes: int = 64 << 20) -> None:
        if counts.ndim != 1 or len(counts) < FIRST_ROW:
            raise ValueError(f"need counts [rows] with the two reserved rows, got {list(counts.shape)}")
        self.name = name
        self.counts = counts.detach().to(torch.float32, copy=True)
        self.block_bytes = block_bytes
        self._order = self.counts[FIRST_ROW:].argsort(descending=True, stable=True) + FIRST_ROW

    @classmethod
    def of_items(cls, items: Tensor, rows: int, *, name: str = "popularity") -> PopularityChannel:
        """Count the item rows of train events ([n], int64) in a catalogue of ``rows`` item rows."""
        return cls(torch.bincount(items.reshape(-1), minlength=rows)[:rows], name=name)

    def among(self, items: Tensor) -> PopularityChannel:
        """The same channel of these item rows [m] alone, on their device."""
        found = copy(self)
        found.counts, order = self.counts.to(items.device), self._order.to(items.device)
        among = torch.zeros(len(found.counts), dtype=torch.bool, device=items.device)
        among[items] = True
        found._order = order[among[order]]
        return found

    def recall(self, query: Query, k: int, exclude: Tensor | None = None, allow: Tensor | None = None) -> Candidates:
        """The k most popular items for each query; score = number of train events. See ``RecallChannel``."""
        return self.most_popular(len(query), k, exclude, allow)

    @torch.no_grad()
    def most_popular(
        self, n_queries: int, k: int, exclude: Tensor | None = None, allow: Tensor | None = None
    ) -> Candidates:
        """As ``recall``, for ``n_queries`` queries of which nothing needs to be known.

        Raises:
            ValueError: k < 1, or exclusions for another number of queries.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if exclude is not None and (exclude.ndim != 2 or len(exclude) != n_queries):
            raise ValueError(f"need exclude [{n_queries}, E], got {list(exclude.shape)}")
        order = self._order if allow is None else self._order[allowed(self._order, allow)]
        width = 0 if exclude is None else exclude.shape[1]
        device = self.counts.device if exclude is None else exclude.device
        # the first k + E of the order hold k that are not excluded, if there are that many: no more of it is read
        head = order[: k + width].to(device)
        items = torch.zeros((n_queries, k), dtype=torch.int64, device=device)
        if exclude is None or width == 0 or len(head) == 0:
            items[:, : len(head)] = head
        else:
            rows = max(1, self.block_bytes // (10 * len(head)))
            items = torch.cat([_first_left(head, some, k) for some in exclude.split(rows)])
        scores = self.counts[items.to(self.counts.device)].to(device)
        return Candidates(items, scores.where(items != 0, -torch.inf))


def _first_left(head: Tensor, exclude: Tensor, k: int) -> Tensor:
    """The first k of the item rows ``head`` [R] left by ``exclude`` [b, E], for each row; [b, k], 0 at the end."""
    reach = len(head)
    rows, order = head.sort()
    near = torch.searchsorted(rows, exclude.contiguous()).clamp(max=reach - 1)
    # one column more takes what is not among the R
    place = torch.where(rows[near] == exclude, order[near], reach)
    left = torch.ones((len(exclude), reach + 1), dtype=torch.bool, device=head.device)
    left.scatter_(1, place, False)
    left = left[:, :reach]
    target = left.cumsum(dim=1) - 1
    target = torch.where(left & (target < k), target, k)
    found = torch.zeros((len(exclude), k + 1), dtype=torch.int64, device=head.device)
    found.scatter_(1, target, head.expand(len(exclude), -1))
    return found[:, :k]


class PopularityRetriever(nn.Module):
    """Popularity as a ``Retriever`` with vectors of size 1: every query is 1, an item its train count.

    Args:
        counts: train events by item row [rows].
    """

    counts: Tensor

    def __init__(self, counts: Tensor) -> None:
        super().__init__()
        self.register_buffer("counts", counts.float())

    def encode_queries(self, query: Query) -> Tensor:
        """Ones [B, 1]."""
        return torch.ones(query.user.shape[0], 1, device=self.counts.device)

    def encode_items(self, items: Tensor) -> Tensor:
        """Train counts [..., 1]."""
        return self.counts[items].unsqueeze(-1)
