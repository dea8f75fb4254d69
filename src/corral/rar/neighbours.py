"""Neighbours: the look-alike users of each user and the recall items of each item, chosen snapshot by snapshot.

Shape letters: S snapshots, U user rows, M item rows, Ku, Ki neighbours, B queries, N items per query.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from corral.rar.keys import KeySource
from corral.rar.selection import Selector
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
        self._columns, self._time, self._rule = (user, item), np.asarray(time), rule

    def users(self, snapshot: int) -> Tensor:
        """See ``Pools``."""
        return self._rows(0, snapshot)

    def items(self, snapshot: int) -> Tensor:
        """See ``Pools``."""
        return self._rows(1, snapshot)

    def _rows(self, column: int, snapshot: int) -> Tensor:
        until = self._rule.until(snapshot)
        rows = np.asarray(self._columns[column])
        rows = rows if until is None else rows[self._time < until]
        return torch.from_numpy(np.unique(rows).astype(np.int64))


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

    def look_alike_users(self, snapshot: Tensor, user: Tensor) -> Tensor:
        """Rows [B, Ku], int64, 0-padded, of users [B]."""
        return self.u2u[snapshot, user].long()

    def recall_items(self, snapshot: Tensor, items: Tensor) -> Tensor:
        """Rows [B, N, Ki], int64, 0-padded, of items [B, N]."""
        return self.i2i[snapshot[:, None], items].long()


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
