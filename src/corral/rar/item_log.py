"""ItemLog: the latest people who met an item, and what they said of it, as of a snapshot.

Shape letters: n events, S snapshots, M item rows, B queries, N items per query.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from corral.data.tables import Tables
from corral.rar.time_rules import Rule, TimeRule


class ItemLog(Tables):
    """The latest people who met an item, and what they said of it, as of a snapshot.

    Args:
        user, value: of the train events by item and then time [n].
        bounds: where each item's events begin, then where they end for each snapshot [1 + S, M].
    """

    user: Tensor
    value: Tensor
    bounds: Tensor

    def __init__(self, user: Tensor, value: Tensor, bounds: Tensor) -> None:
        super().__init__()
        self.register_buffer("user", user)
        self.register_buffer("value", value)
        self.register_buffer("bounds", bounds)

    @classmethod
    def empty(cls) -> ItemLog:
        """Nothing happened yet; a saved log is loaded into it."""
        none = torch.zeros(0, dtype=torch.int64)
        return cls(none, torch.zeros(0), none.view(0, 0))

    @classmethod
    def of(
        cls,
        user: np.ndarray,
        item: np.ndarray,
        time: np.ndarray,
        value: np.ndarray,
        *,
        num_items: int,
        rule: TimeRule,
    ) -> ItemLog:
        """The log of train events [n].

        Args:
            user, item, time, value: of each.
            num_items: item rows.
            rule: the snapshots; of an item's events each must hold the earliest ones, so not ``folds``.
        """
        if rule.rule is Rule.FOLDS:
            raise ValueError("rule=folds: what is latest must not depend on the asking user's fold; use blocks")
        order = np.lexsort((time, item))
        users, items, times = (np.asarray(column)[order].astype(np.int64) for column in (user, item, time))
        starts = np.searchsorted(items, np.arange(num_items))
        bounds = [starts]
        for snapshot in range(rule.snapshots):
            kept = rule.holds(snapshot, users, times)
            bounds.append(starts + np.bincount(items[kept], minlength=num_items))
        return cls(
            torch.from_numpy(users),
            torch.from_numpy(np.asarray(value)[order].astype(np.float32)),
            torch.from_numpy(np.stack(bounds)),
        )

    def renumbered(self, moved: Tensor, num_items: int) -> ItemLog:
        """The same people for a longer catalogue; nobody met the new items."""
        bounds = self.bounds.new_zeros(len(self.bounds), num_items)
        bounds[:, moved] = self.bounds
        return ItemLog(self.user, self.value, bounds)

    def latest(self, snapshot: Tensor, items: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The last ``count`` people of each item: user rows, values and which are there, each [B, N, count].

        Args:
            snapshot: of each query [B].
            items: item rows [B, N].
            count: K.
        """
        stop = self.bounds[snapshot[:, None] + 1, items]
        at = stop[..., None] - 1 - torch.arange(count, device=items.device)
        there = at >= self.bounds[0, items][..., None]
        if not len(self.user):
            return torch.zeros_like(at), torch.zeros_like(at, dtype=torch.float32), there
        at = at.clamp(min=0)
        return taken(self.user, at), taken(self.value, at), there


def taken(column: Tensor, at: Tensor) -> Tensor:
    """column[at], which takes three times as long."""
    return column.index_select(0, at.flatten()).view(at.shape)
