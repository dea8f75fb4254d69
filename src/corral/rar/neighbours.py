"""Neighbours: the look-alike users of each user and the recall items of each item, chosen snapshot by snapshot.

Shape letters: S snapshots, U user rows, M item rows, Ku, Ki neighbours, B queries, N items per query.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.rar.keys import KeySource
from corral.rar.selection import ExactSelector, Selector
from corral.rar.simhash import SimHash, hamming
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

    def renumber(self, moved: Tensor, num_items: int) -> None:
        """Takes a longer catalogue, whose new items recall nothing; ``moved`` [old rows]: where each item row went."""
        longer = self.i2i.new_zeros(len(self.i2i), num_items, self.i2i.shape[2])
        longer[:, moved] = moved.to(self.i2i.dtype)[self.i2i.long()]
        self.i2i = longer

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
    are those whose fingerprints agree most with its own (``bits`` of SimHash; the target is never among them).

    Args:
        num_users, num_items, rule, look_alikes, recall_items: of ``Neighbours``.
        pool_size: n.
        bits: m.
        seed: of the projection.
    """

    recalled: Tensor
    codes: Tensor

    def __init__(
        self,
        num_users: int,
        num_items: int,
        rule: TimeRule,
        *,
        look_alikes: int = 10,
        recall_items: int = 10,
        pool_size: int = 100,
        bits: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(num_users, num_items, rule, look_alikes=look_alikes, recall_items=0)
        if pool_size < recall_items:
            raise ValueError(f"pool_size={pool_size}: smaller than recall_items={recall_items}")
        self.count, self.bits, self.seed = recall_items, bits, seed
        words = -(-bits // 64)
        self.register_buffer("recalled", torch.zeros(rule.snapshots, num_users, pool_size, dtype=torch.int32))
        self.register_buffer("codes", torch.zeros(rule.snapshots, num_items, words, dtype=torch.int64))

    @torch.no_grad()
    def refresh(self, keys: KeySource, pools: Pools, selectors: tuple[Selector, Selector]) -> None:
        """See ``Neighbours``; the second selector is not used."""
        super().refresh(keys, pools, selectors)
        for snapshot in range(self.rule.snapshots):
            self.recalled[snapshot], self.codes[snapshot] = 0, 0
            pool = pools.items(snapshot)
            if not len(pool):
                continue
            users, items = keys.users(snapshot), keys.items(snapshot)
            recall = ExactSelector("inner-product")
            recall.fit(items[pool], pool)
            known = (users.abs().sum(1) > 0).nonzero().flatten()
            for rows in known.split(1 << 12):
                found = recall.search(users[rows], self.recalled.shape[2]).rows
                self.recalled[snapshot, rows] = found.to(self.recalled)
            unit = functional.normalize(items, dim=1)
            hashed = SimHash(items.shape[1], self.bits, seed=self.seed).to(items.device)
            hashed.fit(unit[pool])
            self.codes[snapshot] = hashed.codes(unit).to(self.codes.device)

    def renumber(self, moved: Tensor, num_items: int) -> None:
        """See ``Neighbours``."""
        super().renumber(moved, num_items)
        self.recalled = moved.to(self.recalled.dtype)[self.recalled.long()]
        codes = self.codes.new_zeros(len(self.codes), num_items, self.codes.shape[2])
        codes[:, moved] = self.codes
        self.codes = codes

    def recall_items(self, snapshot: Tensor, user: Tensor, items: Tensor) -> Tensor:
        """Rows [B, N, Ki], int64, 0-padded, of items [B, N] for users [B]; an item without a fingerprint has none."""
        pool = self.recalled[snapshot, user].long()
        asked, theirs = self.codes[snapshot[:, None], items], self.codes[snapshot[:, None], pool]
        agreement = self.bits - hamming(asked[:, :, None], theirs[:, None])
        there = (pool > 0)[:, None] & (pool[:, None] != items[:, :, None]) & asked.any(-1, keepdim=True)
        # Ties go to what the retriever recalls first.
        place = torch.arange(pool.shape[1], device=pool.device)
        order = agreement.masked_fill(~there, -1) * pool.shape[1] - place
        best = order.topk(self.count, dim=2).indices
        chosen = pool[:, None].expand(-1, items.shape[1], -1).gather(2, best)
        return chosen.masked_fill(~there.gather(2, best), 0)


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
        found[rows] = selector.search(vectors[rows], count, exclude=rows).rows.int()
    return found


# Chooses neighbours anew; what ``RarRanker`` calls at every refresh.
Refresh = Callable[[Neighbours], None]
