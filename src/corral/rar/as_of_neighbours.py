"""AsOfNeighbours: look-alikes of whoever asks, by what he had done when he asked.

Shape letters: S snapshots, B queries, L history length, Ku neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from corral.data.batches import Query
from corral.data.features import FeatureTable
from corral.rar.exposure import PairLog
from corral.rar.keys import KeySource
from corral.rar.neighbours import Neighbours, Pools
from corral.rar.profile_keys import ProfileKeys, gather_kinds
from corral.rar.selection import Selector
from corral.rar.time_rules import TimeRule


class AsOfNeighbours(Neighbours):
    """Look-alikes by the behaviour profile of each query's own history, from its snapshot's pool; of no paper.

    A table of users, chosen at each snapshot, knows nobody who came after it: cut by time, a log of short visits has
    look-alikes for few of its rows. Here who asks is encoded as of the event, with the snapshot's item vectors and what
    he said before the event, so that everybody with a history has some; a row's own event is in none of it. The pool,
    and recall items, are those of the snapshot as before.

    Args:
        num_users, num_items, rule, look_alikes, recall_items: of ``Neighbours``.
        selectors: one for each snapshot, not fitted.
        keys: behaviour profiles; of no snapshot yet where a bundle is opened.
        own: all events that a history may hold, with values: a user's own are looked up strictly before the event.
    """

    filled: Tensor

    def __init__(
        self,
        num_users: int,
        num_items: int,
        rule: TimeRule,
        selectors: Sequence[nn.Module],
        keys: ProfileKeys,
        own: PairLog,
        *,
        look_alikes: int = 10,
        recall_items: int = 10,
    ) -> None:
        super().__init__(num_users, num_items, rule, look_alikes=0, recall_items=recall_items)
        self.count, self.selectors, self.keys, self.own = look_alikes, nn.ModuleList(selectors), keys, own
        # Snapshots with anybody to be found: one person alone is his pool's mean, and like nobody.
        self.register_buffer("filled", torch.zeros(rule.snapshots, dtype=torch.bool))

    def take(self, keys: ProfileKeys, own: PairLog) -> None:
        """What queries are encoded with, before the first refresh."""
        device = self.i2i.device
        self.keys, self.own = keys.to(device), own.to(device)

    @torch.no_grad()
    def refresh(self, keys: KeySource, pools: Pools, selectors: tuple[Selector, Selector]) -> None:
        """See ``Neighbours``; of the two selectors the second alone is used. The keys are those that were taken."""
        super().refresh(keys, pools, selectors)
        for snapshot, own in enumerate(self.selectors):
            vectors, pool = self.keys.users(snapshot), pools.users(snapshot).to(self.i2i.device)
            pool = pool[vectors[pool].any(1)]
            self.filled[snapshot] = len(pool) > 0
            if len(pool):
                cast(Selector, own).fit(vectors[pool], pool)

    def renumber(self, moved: Tensor, items: FeatureTable) -> None:
        """See ``Neighbours``."""
        super().renumber(moved, items)
        moved = moved.to(self.i2i.device)
        self.keys, self.own = self.keys.renumbered(moved, items.rows), self.own.renumbered(moved, items.rows)

    @torch.no_grad()
    def of_queries(self, snapshot: Tensor, query: Query) -> Tensor:
        """See ``Neighbours``; who has no history has none."""
        found = query.user.new_zeros(len(query), self.count)
        if not self.count or not len(self.keys.item_vectors):
            return found
        # Neighbours in service are those of training, whatever products are made in there.
        with torch.autocast(query.user.device.type, enabled=False):
            profile = self._profiles(snapshot, query)
        asks = profile.any(1) & self.filled[snapshot]
        for number in snapshot[asks].unique().tolist():
            selector = cast(Selector, self.selectors[number])
            rows = (asks & (snapshot == number)).nonzero().flatten()
            found[rows] = selector.search(profile[rows], self.count, exclude=query.user[rows]).rows
        return found

    def _profiles(self, snapshot: Tensor, query: Query) -> Tensor:
        """Keys of queries [B, 2 D]; zero where nothing of the history is known to the snapshot, or before the first."""
        met, values = self.own.before(query.user[:, None], query.history, query.time[:, None])
        there, table = query.history > 0, self.keys.item_vectors
        past = gather_kinds(table, snapshot[:, None] * table.shape[1] + query.history)
        there &= past[0].any(-1)
        return self.keys.encode(snapshot, there, past, values * met).flatten(1)
