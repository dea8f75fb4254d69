"""What look-alikes did: observed, time-safe behaviour as inputs of a ranker (recipe ``rar-plus``, beyond the paper).

The paper's vectors say who is alike and what is recalled, not what those people did with those items. Here the
set-to-set matrix is observed instead of learned, along its two informative lines:

- the **target's column**: people who met the target, weighed by how much alike the user they are;
- the **user's own row**: items the user met, weighed by how close to the target they are.

Shape letters: B queries, N items per query, L history length, K people per item, D key size, E inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from corral.data.batches import Query
from corral.rar.exposure import PairLog
from corral.rar.keys import ProfileKeys
from corral.rar.tables import Tables
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
            rule: the snapshots.
        """
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
        return self.user[at], self.value[at], there


class BehaviourEvidence(Tables):
    """The two lines of the observed matrix as ``Evidence``: numbers about a pair, nothing of it learned.

    For each kind of key (who is met together, who is liked together), each line and each temperature t: the rate

        sum_a w_a r_a / (sum_a w_a + lambda),   w_a = exp(t * agreement_a),

    of the residuals r (``keys.residuals``) and the log of 1 + sum w / lambda; for each kind and line the mean and the
    largest agreement. Then the user's taste times the item's vector, the cosine of the profile and the item, and the
    logs of how many people and items there were.

    No leak by construction: people come from the blocks before the event's, the user's own row from events strictly
    before the event, the user is not among the people, and keys are encoded from histories (see ``ProfileKeys``).

    Args:
        keys: behaviour profiles.
        people: who met what, train events.
        own: all events of the log with their residuals: a user's own are looked up strictly before the event.
        rule: the snapshots; ``static`` is refused: it would hold the row's own label.
        count: K.
        history_length: L, the latest items of the user that are looked at.
        temperatures: t, one or several.
        strength: lambda, in cells of agreement 0.
        column, row: use the line; without it its numbers are zero (controls).
        shuffle_seed: keys are dealt to other users and items at random: the control that must not help.
    """

    shuffled_users: Tensor
    shuffled_items: Tensor

    def __init__(
        self,
        keys: ProfileKeys,
        people: ItemLog,
        own: PairLog,
        rule: TimeRule,
        *,
        count: int = 100,
        history_length: int = 100,
        temperatures: Sequence[float] = (2.0, 8.0),
        strength: float = 3.0,
        column: bool = True,
        row: bool = True,
        shuffle_seed: int | None = None,
    ) -> None:
        super().__init__()
        if rule.rule is not Rule.BLOCKS:
            raise ValueError(
                f"rule={rule.rule.value}: behaviour needs blocks, or a row would find its own or later labels"
            )
        self.keys, self.people, self.own, self.rule = keys, people, own, rule
        self.count, self.history_length, self.column, self.row = count, history_length, column, row
        self.temperatures, self.strength = tuple(temperatures), strength
        self.size = 4 * (2 * len(self.temperatures) + 2) + 4
        users, items = (vectors.shape[1] for vectors in (keys.user_vectors, keys.item_vectors))
        self.register_buffer("shuffled_users", _order(users, shuffle_seed))
        self.register_buffer("shuffled_items", _order(items, shuffle_seed))

    @torch.no_grad()
    def forward(self, query: Query, items: Tensor) -> Tensor:
        """Item rows [B, N] -> [B, N, E], about unit scale, without gradient."""
        history, snapshot = query.recent(self.history_length).history, self.rule.snapshot(query.time, query.user)
        met, values = self.own.before(query.user[:, None], history, query.time[:, None])
        met &= history > 0
        past, vectors = (self._item_vectors(snapshot, rows) for rows in (history, items))
        profile = self.keys.encode(snapshot, history > 0, past, values)
        units = [functional.normalize(one, dim=-1) for one in vectors]
        who, said, there = self.people.latest(snapshot, items, self.count)
        there &= who != query.user[:, None, None]
        them = self._user_vectors(snapshot, who)
        alike, near = [], []
        for kind in range(2):
            whole = torch.bmm(them[kind].flatten(1, 2), profile[:, kind, :, None])
            alike.append(whole.view(who.shape))
            near.append(torch.bmm(units[kind], functional.normalize(past[kind], dim=-1).transpose(1, 2)))
        own_row = met[:, None].expand(-1, items.shape[1], -1)
        column = _Line(torch.stack(alike, 2), said, there & self.column)
        row = _Line(torch.stack(near, 2), values[:, None].expand(own_row.shape), own_row & self.row)
        numbers = [line.numbers(self.temperatures, self.strength) for line in (column, row)]
        taste = torch.bmm((values * met)[:, None], past[1])
        taste = torch.bmm(vectors[1], taste.transpose(1, 2))[..., 0] * values.abs().sum(1).add(5.0).rsqrt()[:, None]
        close = torch.bmm(units[0], profile[:, 0, :, None])[..., 0]
        counts = [line.mask.sum(-1).log1p() / 4 for line in (column, row)]
        extra = torch.stack([taste * self.row, close * self.row, *counts], -1)
        return torch.cat([*numbers, extra], -1)

    def renumber(self, moved: Tensor, num_items: int) -> None:
        """Takes a longer catalogue, of whose new items nothing is known; ``moved`` [old rows]: where each row went."""
        self.keys = self.keys.renumbered(moved, num_items)
        self.people, self.own = self.people.renumbered(moved, num_items), self.own.renumbered(moved, num_items)
        shuffled = torch.arange(num_items, device=moved.device)
        shuffled[moved] = moved[self.shuffled_items]
        self.shuffled_items = shuffled

    def _item_vectors(self, snapshot: Tensor, items: Tensor) -> list[Tensor]:
        """Both kinds, each [B, n, D], of item rows [B, n]."""
        table = self.keys.item_vectors
        return _gather(table, snapshot[:, None] * table.shape[1] + self.shuffled_items[items])

    def _user_vectors(self, snapshot: Tensor, users: Tensor) -> list[Tensor]:
        """Both kinds, each [B, N, K, D], of user rows [B, N, K]."""
        table = self.keys.user_vectors
        return _gather(table, snapshot[:, None, None] * table.shape[1] + self.shuffled_users[users])


def _gather(table: Tensor, at: Tensor) -> list[Tensor]:
    """Rows of a table [S, n, 2, D] by their flat number, kind by kind: one copy each, in the order products need."""
    return [functional.embedding(2 * at + kind, table.view(-1, table.shape[-1])) for kind in range(2)]


@dataclass(frozen=True)
class _Line:
    """Cells of one line of the matrix.

    Attributes:
        agreement: for each kind of key [B, N, 2, n].
        value: residuals [B, N, n].
        mask: which are there [B, N, n].
    """

    agreement: Tensor
    value: Tensor
    mask: Tensor

    def numbers(self, temperatures: Sequence[float], strength: float) -> Tensor:
        """[B, N, 2 kinds x (rate and log weight of each temperature, mean, largest agreement)]; 0 for no cells."""
        mask, value = self.mask[:, :, None], self.value[:, :, None]
        found = []
        for temperature in temperatures:
            # exp(t * (agreement - 1)) and the strength alike: nothing overflows.
            weight = ((self.agreement - 1.0) * temperature).exp_() * mask
            prior, total = strength * math.exp(-temperature), weight.sum(-1)
            found += [4.0 * (weight * value).sum(-1) / (total + prior), (total / prior).log1p() / 4]
        kept = self.agreement.masked_fill(~mask, 0.0)
        found.append(kept.sum(-1) / mask.sum(-1).clamp(min=1))
        if mask.shape[-1]:
            largest = self.agreement.masked_fill(~mask, -1.0).amax(-1)
            found.append(largest.masked_fill(~mask.any(-1), 0.0))
        else:
            found.append(torch.zeros_like(found[-1]))
        return torch.stack(found, -1).flatten(2)


def _order(size: int, seed: int | None) -> Tensor:
    """Rows as they are, or dealt anew; padding and unknown stay."""
    if seed is None:
        return torch.arange(size)
    moved = torch.randperm(size - 2, generator=torch.Generator().manual_seed(seed)) + 2
    return torch.cat([torch.arange(2), moved])
