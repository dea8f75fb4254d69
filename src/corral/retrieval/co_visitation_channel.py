"""Co-visitation as a recall channel: nothing learned, a baseline that must always be shown.

Shape letters: B queries, R latest history items, M items.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from corral.data.batches import Query
from corral.data.candidates import Candidates
from corral.data.vocabulary import FIRST_ROW
from corral.retrieval.co_visitation import CoVisitation
from corral.retrieval.index import allowed

# Neighbours of history items that are looked at together.
_MET = 1 << 22


class CoVisitationChannel:
    """Items that others visited after (or before) the latest items of the history. A ``RecallChannel``.

    score(i) = sum over the R latest history items h, the latest first (r = 1 .. R), of
    decay^(r - 1) * (w(h -> i) + w(i -> h)), divided by count(i) ** power.

    Args:
        table: the counts.
        recent: R.
        decay: weight of each step back in the history, in (0, 1].
        power: 0 leaves popular items their lead, .5 is a cosine.
        name: the channel's name.
    """

    def __init__(
        self,
        table: CoVisitation,
        *,
        recent: int = 10,
        decay: float = 0.7,
        power: float = 0.3,
        name: str = "co-visitation",
    ) -> None:
        self.table, self.recent, self.decay, self.power, self.name = table, recent, decay, power, name

    @torch.no_grad()
    def recall(self, query: Query, k: int, exclude: Tensor | None = None, allow: Tensor | None = None) -> Candidates:
        """The k best co-visited items; shorter where fewer were ever co-visited. See ``RecallChannel``.

        The user's own share cannot touch what is recalled where seen items are excluded; where repeats are
        recommended it is left in: a repeat is the user's own habit.
        """
        history = query.recent(self.recent).history
        _, _, start = self._neighbours
        # Blocks of bounded work: one popular item may have a large part of the catalogue as neighbours.
        met = (start[history + 1] - start[history]).sum(1)
        sizes = torch.bincount((met.cumsum(0) - met) // _MET)
        blocks = torch.arange(len(history), device=history.device).split(sizes[sizes > 0].tolist())
        found = [
            self._recalled(history[rows], k, None if exclude is None else exclude[rows], allow)
            for rows in blocks or [torch.arange(0, device=history.device)]
        ]
        return Candidates(torch.cat([one.items for one in found]), torch.cat([one.scores for one in found]))

    def _recalled(self, history: Tensor, k: int, exclude: Tensor | None, allow: Tensor | None) -> Candidates:
        table, num_queries = self.table, len(history)
        neighbour, weight, start = self._neighbours
        size = start[history + 1] - start[history]
        total = int(size.sum())
        slot = torch.repeat_interleave(torch.arange(history.numel(), device=history.device), size.flatten())
        within = torch.arange(total, device=history.device) - (size.flatten().cumsum(0) - size.flatten())[slot]
        at = start[history].flatten()[slot] + within
        owner, place = slot // history.shape[1], slot % history.shape[1]
        score = weight[at] * self.decay ** (history.shape[1] - 1 - place).float()
        key, inverse = (owner * table.num_items + neighbour[at]).unique(return_inverse=True)
        score = torch.zeros(len(key), device=score.device).index_add_(0, inverse, score)
        owner, item = key // table.num_items, key % table.num_items
        score = score / table.counts[item].clamp(min=1) ** self.power
        keep = item >= FIRST_ROW
        if allow is not None:
            keep &= allowed(item, allow)
        if exclude is not None and exclude.shape[1]:
            # A row beyond the table would be another query's.
            known = exclude.masked_fill(exclude >= table.num_items, 0)
            hidden = (torch.arange(num_queries, device=item.device)[:, None] * table.num_items + known).unique()
            found = torch.searchsorted(hidden, key).clamp_(max=len(hidden) - 1)
            keep &= hidden[found] != key
        owner, item, score = owner[keep], item[keep], score[keep]
        # Best first within each query; equal scores by item row.
        order = torch.from_numpy(np.lexsort((item.cpu(), -score.cpu(), owner.cpu()))).to(item.device)
        owner, item, score = owner[order], item[order], score[order]
        rank = torch.arange(len(owner), device=item.device) - torch.searchsorted(owner, owner)
        top = rank < k
        items = torch.zeros(num_queries, k, dtype=torch.int64, device=item.device)
        scores = torch.full((num_queries, k), -torch.inf, device=item.device)
        items[owner[top], rank[top]], scores[owner[top], rank[top]] = item[top], score[top]
        return Candidates(items, scores)

    @cached_property
    def _neighbours(self) -> tuple[Tensor, Tensor, Tensor]:
        """w(a -> b) + w(b -> a) by row a: neighbours, weights, starts."""
        table = self.table
        earlier, later = table.keys // table.num_items, table.keys % table.num_items
        key = torch.cat([table.keys, later * table.num_items + earlier])
        key, inverse = key.unique(return_inverse=True)
        weight = torch.zeros(len(key), device=key.device).index_add_(0, inverse, table.weight.repeat(2))
        rows = torch.arange(table.num_items + 1, device=key.device) * table.num_items
        return key % table.num_items, weight, torch.searchsorted(key, rows)
