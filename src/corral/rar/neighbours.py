"""Neighbours: the look-alike users of each user and the recall items of each item, chosen snapshot by snapshot.

Shape letters: S snapshots, U user rows, M item rows, Ku, Ki neighbours, B queries, N items per query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from corral.data.batches import Query
from corral.data.features import FeatureTable
from corral.data.tables import Tables
from corral.data.whole_batch import by_shares
from corral.rar.keys import KeySource
from corral.rar.selection import ExactSelector, ListSelector, Selector
from corral.rar.time_rules import TimeRule


class Pools(Protocol):
    """Who may be chosen, as of a snapshot."""

    def users(self, snapshot: int) -> Tensor:
        """User rows with a train event in it, ascending, int64."""
        ...

    def items(self, snapshot: int) -> Tensor:
        """Item rows with one."""
        ...


class CataloguePools:
    """Everybody and everything of the snapshot's train events.

    Args:
        user, item, time: of the train events [n].
        rule: the snapshots.
    """

    def __init__(self, user: np.ndarray, item: np.ndarray, time: np.ndarray, rule: TimeRule) -> None:
        self._user, self._item, self._time, self._rule = user, item, time, rule

    def users(self, snapshot: int) -> Tensor:
        """See ``Pools``."""
        return self._rows(self._user, snapshot)

    def items(self, snapshot: int) -> Tensor:
        """See ``Pools``."""
        return self._rows(self._item, snapshot)

    def _rows(self, column: np.ndarray, snapshot: int) -> Tensor:
        held = np.asarray(column)[self._rule.holds(snapshot, self._user, self._time)]
        return torch.from_numpy(np.unique(held).astype(np.int64))


class Neighbours(nn.Module):
    """Two tables by row, U2U [S, U, Ku] and I2I [S, M, Ki], 0 where there is no more; RAR, section 1 and Cost.

    Users depend on the user alone and items on the item alone, so that a batch only gathers. The user is never among
    the look-alikes, nor the item among the recall items. Tables are buffers: what a checkpoint or a bundle holds is
    what the weights were trained with; ``version`` counts the refreshes.

    Args:
        num_users, num_items: U and M.
        rule: the snapshots.
        look_alikes: Ku.
        recall_items: Ki.
    """

    u2u: Tensor
    i2i: Tensor
    version: Tensor

    def __init__(
        self, num_users: int, num_items: int, rule: TimeRule, *, look_alikes: int = 10, recall_items: int = 10
    ) -> None:
        super().__init__()
        if min(look_alikes, recall_items) < 0:
            raise ValueError(f"look_alikes={look_alikes}, recall_items={recall_items}: must not be negative")
        self.rule = rule
        snapshots = rule.snapshots
        self.register_buffer("u2u", torch.zeros(snapshots, num_users, look_alikes, dtype=torch.int32))
        self.register_buffer("i2i", torch.zeros(snapshots, num_items, recall_items, dtype=torch.int32))
        self.register_buffer("version", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def refresh(self, keys: KeySource, pools: Pools, selectors: tuple[Selector, Selector]) -> None:
        """Chooses anew from the keys as they are now.

        Args:
            keys: what is compared.
            pools: who may be chosen.
            selectors: of users and of items.
        """
        for snapshot in range(self.rule.snapshots):
            for table, vectors, rows, selector in (
                (self.u2u, keys.users, pools.users, selectors[0]),
                (self.i2i, keys.items, pools.items, selectors[1]),
            ):
                pool = rows(snapshot)
                table[snapshot] = 0
                if table.shape[2] and len(pool):
                    table[snapshot] = _table(vectors(snapshot), pool, selector, table.shape[2]).to(table.device)
        self.version += 1

    def renumber(self, moved: Tensor, items: FeatureTable) -> None:
        """See ``HoldsItemRows``: new items recall nothing."""
        moved = moved.to(self.i2i.device)
        longer = self.i2i.new_zeros(len(self.i2i), items.rows, self.i2i.shape[2])
        longer[:, moved] = moved.to(self.i2i.dtype)[self.i2i.long()]
        self.i2i = longer

    def of_queries(self, snapshot: Tensor, query: Query) -> Tensor:
        """Look-alikes of whoever asks: rows [B, Ku], int64, 0-padded."""
        return self.look_alike_users(snapshot, query.user)

    def look_alike_users(self, snapshot: Tensor, user: Tensor) -> Tensor:
        """Rows [B, Ku], int64, 0-padded, of users [B]."""
        return self.u2u[snapshot, user].long()

    def recall_items(self, snapshot: Tensor, user: Tensor, items: Tensor) -> Tensor:
        """Rows [B, N, Ki], int64, 0-padded, of items [B, N]; the same for every user [B]."""
        return self.i2i[snapshot[:, None], items].long()


class RecalledNeighbours(Neighbours):
    """Recall items from what the retriever recalls for this user: the cross-stage pool.

    For each snapshot a frozen list [U, n] of the items with the greatest inner product of the user's and the item's
    keys, which must be a retriever's; users without a key recall nothing. Of a user's list an item's Ki recall items
    are those that a selector finds most like it; the target is never among them.

    Args:
        num_users, num_items, rule, look_alikes, recall_items: of ``Neighbours``.
        selectors: one for each snapshot, not fitted.
        pool_size: n.
    """

    recalled: Tensor

    def __init__(
        self,
        num_users: int,
        num_items: int,
        rule: TimeRule,
        selectors: Sequence[nn.Module],
        *,
        look_alikes: int = 10,
        recall_items: int = 10,
        pool_size: int = 100,
    ) -> None:
        super().__init__(num_users, num_items, rule, look_alikes=look_alikes, recall_items=0)
        if pool_size < recall_items:
            raise ValueError(f"pool_size={pool_size}: smaller than recall_items={recall_items}")
        self.count, self.selectors, self.items = recall_items, nn.ModuleList(selectors), _ItemKeys()
        self.register_buffer("recalled", torch.zeros(rule.snapshots, num_users, pool_size, dtype=torch.int32))

    @torch.no_grad()
    def refresh(self, keys: KeySource, pools: Pools, selectors: tuple[Selector, Selector]) -> None:
        """See ``Neighbours``; of the two selectors the first alone is used."""
        super().refresh(keys, pools, selectors)
        self.recalled.zero_()
        items = [keys.items(snapshot).to(self.recalled.device) for snapshot in range(self.rule.snapshots)]
        self.items.vectors = torch.stack(items)
        for snapshot, own in enumerate(self.selectors):
            pool, users = pools.items(snapshot), keys.users(snapshot)
            if not len(pool):
                continue
            recall = ExactSelector("inner-product")
            for selector in (recall, cast(Selector, own)):
                selector.fit(items[snapshot][pool], pool)
            known = (users.abs().sum(1) > 0).nonzero().flatten()
            for rows in known.split(1 << 12):
                found = by_shares(rows, partial(_recalled, recall, users, self.recalled.shape[2]))
                self.recalled[snapshot, rows] = found.to(self.recalled)

    def renumber(self, moved: Tensor, items: FeatureTable) -> None:
        """See ``Neighbours``."""
        super().renumber(moved, items)
        moved = moved.to(self.recalled.device)
        self.recalled = moved.to(self.recalled.dtype)[self.recalled.long()]
        vectors = self.items.vectors
        self.items.vectors = vectors.new_zeros(len(vectors), items.rows, vectors.shape[2])
        self.items.vectors[:, moved] = vectors
        for selector in self.selectors:
            cast(ListSelector, selector).renumber(moved)

    def recall_items(self, snapshot: Tensor, user: Tensor, items: Tensor) -> Tensor:
        """Rows [B, N, Ki], int64, 0-padded, of items [B, N] for users [B]; an item without a key has none."""
        found = items.new_zeros(*items.shape, self.count)
        for number in snapshot.unique().tolist():
            rows = (snapshot == number).nonzero().flatten()
            asked = items[rows].flatten()
            pool = self.recalled[number, user[rows]].long().repeat_interleave(items.shape[1], 0)
            if not bool(pool.any()):  # nobody recalls anything before the first block, or the first refresh
                continue
            vectors = self.items.vectors[number, asked]
            # Nothing is like an item of which nothing is known.
            pool = pool.masked_fill(~vectors.any(1, keepdim=True), 0)
            selector = cast(ListSelector, self.selectors[number])
            chosen = selector.search_among(vectors, pool, self.count, exclude=asked).rows
            found[rows] = chosen.view(len(rows), *found.shape[1:])
        return found


class _ItemKeys(Tables):
    """Keys of the items of every snapshot [S, M, D], whose size the keys tell."""

    vectors: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(0, 0, 0))


def _recalled(recall: Selector, users: Tensor, count: int, rows: Tensor) -> Tensor:
    """Item rows [n, count] that the users of ``rows`` [n] recall."""
    return recall.search(users[rows], count).rows


def _table(vectors: Tensor, pool: Tensor, selector: Selector, count: int) -> Tensor:
    """Neighbours [rows, count], int32, of every row with a key; rows without one have none."""
    pool = pool.to(vectors.device)
    known = vectors.abs().sum(1) > 0
    pool = pool[known[pool]]
    found = torch.zeros(len(vectors), count, dtype=torch.int32, device=vectors.device)
    if not len(pool):
        return found
    selector.fit(vectors[pool], pool)
    asked = known.nonzero().flatten()
    for rows in asked.split(1 << 14):
        found[rows] = by_shares(rows, lambda own: selector.search(vectors[own], count, exclude=own).rows.int())
    return found


# Chooses neighbours anew; what ``RarRanker`` calls at every refresh.
Refresh = Callable[[Neighbours], None]
