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
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from corral.data.batches import Query
from corral.data.features import FeatureTable
from corral.data.tables import Tables
from corral.rar.exposure import PairLog
from corral.rar.item_log import ItemLog, taken
from corral.rar.profile_keys import ProfileKeys, gather_kinds
from corral.rar.time_rules import Rule, TimeRule

# Bound on the vectors and weights of cells that are worked on at a time.
_PIECE_BYTES = 1 << 26


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
        if not items.numel():
            return self.keys.item_vectors.new_zeros(*items.shape, self.size)
        # Numbers in service are those of training, whatever products are made in there.
        with torch.autocast(items.device.type, enabled=False):
            asked = self._asked(query)
            return torch.cat([self._of_queries(asked.part(rows), items[rows]) for rows in self._rows(items)])

    def _asked(self, query: Query) -> _Asked:
        history, snapshot = query.recent(self.history_length).history, self.rule.snapshot(query.time, query.user)
        met, values = self.own.before(query.user[:, None], history, query.time[:, None])
        met &= history > 0
        past = self._item_vectors(snapshot, history)
        values = values.to(past[0].dtype)
        profile = self.keys.encode(snapshot, history > 0, past, values)
        taste = torch.bmm((values * met)[:, None], past[1])[:, 0]
        taste = taste * values.abs().sum(1).add(5.0).rsqrt()[:, None]
        lengths = torch.stack([one.norm(dim=-1) for one in past], 1).clamp(min=1e-12)
        return _Asked(
            query.user, snapshot, profile, taste, past[0], past[1], lengths.reciprocal(), values, met & self.row
        )

    def _rows(self, items: Tensor) -> list[slice]:
        """Queries of each piece."""
        users = self.keys.user_vectors.shape[1] if self._meets_everybody(items) else 0
        each = min(items.shape[1] * self._bytes(items), _PIECE_BYTES)
        step = max(1, _PIECE_BYTES // max(each, 8 * users, 1))
        return [slice(start, start + step) for start in range(0, len(items), step)]

    def _bytes(self, items: Tensor) -> int:
        """What a pair takes: weights of its cells at all temperatures, and vectors of people."""
        vectors = 0 if self._meets_everybody(items) else self.count * self.keys.user_vectors.shape[-1]
        return 8 * ((len(self.temperatures) + 1) * (self.count + self.history_length) + vectors)

    def _meets_everybody(self, items: Tensor) -> bool:
        """Whether one product with the vectors of all users is cheaper than to gather those of the items' people.

        A gathered vector takes about as long as 16 that are read in a row.
        """
        return self.keys.user_vectors.shape[1] <= 16 * items.shape[1] * self.count

    def _of_queries(self, asked: _Asked, items: Tensor) -> Tensor:
        """[b, N, E] for some queries, so many items at a time as memory allows."""
        everybody = self._agreements(asked) if self._meets_everybody(items) else None
        step = max(1, _PIECE_BYTES // (len(items) * self._bytes(items)))
        parts = [self._of_pairs(asked, part, everybody) for part in items.split(step, 1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _of_pairs(self, asked: _Asked, items: Tensor, everybody: Tensor | None) -> Tensor:
        """[b, n, E]."""
        vectors = self._item_vectors(asked.snapshot, items)
        units = [functional.normalize(one, dim=-1) for one in vectors]
        who, said, there = self.people.latest(asked.snapshot, items, self.count)
        there &= who != asked.user[:, None, None]
        near = [torch.bmm(one, past.transpose(1, 2)) for one, past in zip(units, asked.past, strict=True)]
        # Products are scaled, not the vectors of the past: those are many times as many numbers.
        cosines = torch.stack(near, 2) * asked.shrink[:, None]
        column = self._numbers(self._alike(asked, who, everybody), said, there & self.column)
        row = self._numbers(cosines, asked.values[:, None], asked.met[:, None])
        taste = torch.bmm(vectors[1], asked.taste[:, :, None])[..., 0]
        close = torch.bmm(units[0], asked.profile[:, 0, :, None])[..., 0]
        counts = [(there & self.column).sum(-1), asked.met.sum(-1, keepdim=True).expand(items.shape)]
        extra = [taste * self.row, close * self.row, *(count.log1p() / 4 for count in counts)]
        return torch.cat([column, row, torch.stack(extra, -1)], -1)

    def _alike(self, asked: _Asked, who: Tensor, everybody: Tensor | None) -> Tensor:
        """How much alike people [b, n, K] are, [b, n, 2, K]; from everybody's agreements where they are known."""
        people = taken(self.shuffled_users, who)
        if everybody is not None:
            found = everybody.gather(2, people.flatten(1)[:, None].expand(-1, 2, -1))
            return found.view(len(who), 2, *who.shape[1:]).transpose(1, 2)
        table = self.keys.user_vectors
        them = gather_kinds(table, asked.snapshot[:, None, None] * table.shape[1] + people)
        alike = [torch.bmm(one.flatten(1, 2), asked.profile[:, kind, :, None]) for kind, one in enumerate(them)]
        return torch.stack([one.view(who.shape) for one in alike], 2)

    def _agreements(self, asked: _Asked) -> Tensor:
        """Of every user with each query [b, 2, U]."""
        table = self.keys.user_vectors
        found = table.new_empty(len(asked.user), 2, table.shape[1])
        for snapshot in asked.snapshot.unique():
            rows = (asked.snapshot == snapshot).nonzero().flatten()
            for kind in range(2):
                found[rows, kind] = asked.profile[rows, kind] @ table[snapshot, :, kind].T
        return found

    def _numbers(self, agreement: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """One line's numbers: of 2 kinds, the rate and log weight of each temperature, the mean and largest agreement.

        Args:
            agreement: [b, n, 2, c].
            value: residuals [b, n, c], or [b, 1, c] where they are the same for all items.
            mask: which cells are there, as ``value``.

        Returns:
            [b, n, 2 x (2 T + 2)]; 0 where there are no cells.
        """
        queries, items, kinds, cells = agreement.shape
        if not cells:
            return agreement.new_zeros(queries, items, kinds * (2 * len(self.temperatures) + 2))
        there = mask.to(agreement.dtype)
        # exp(t * (agreement - 1)) and the strength alike: nothing overflows. All sums over cells are one product.
        weights = [((agreement - 1.0) * temperature).exp_() for temperature in self.temperatures]
        summed = torch.stack([*weights, agreement], 3).view(queries * value.shape[1], -1, cells)
        rights = torch.stack([there, there * value], 2).flatten(0, 1)
        sums = torch.bmm(rights, summed.transpose(1, 2)).view(queries, value.shape[1], 2, -1)
        totals, rated = (one.reshape(queries, items, kinds, len(weights) + 1) for one in sums.unbind(2))
        count = there.sum(-1)[..., None]
        prior = agreement.new_tensor([self.strength * math.exp(-one) for one in self.temperatures])
        rates = 4.0 * rated[..., :-1] / (totals[..., :-1] + prior)
        strengths = (totals[..., :-1] / prior).log1p() / 4
        mean = totals[..., -1] / count.clamp(min=1)
        largest = agreement.masked_fill(~mask[:, :, None], -1.0).amax(-1)
        largest = largest.masked_fill(count == 0, 0.0)
        pairs = torch.stack([rates, strengths], -1).flatten(3)
        return torch.cat([pairs, mean[..., None], largest[..., None]], -1).flatten(2)

    def renumber(self, moved: Tensor, items: FeatureTable) -> None:
        """See ``HoldsItemRows``."""
        moved, rows = moved.to(self.shuffled_items.device), items.rows
        self.keys, self.people = self.keys.renumbered(moved, rows), self.people.renumbered(moved, rows)
        self.own = self.own.renumbered(moved, rows)
        shuffled = torch.arange(rows, device=moved.device)
        shuffled[moved] = moved[self.shuffled_items]
        self.shuffled_items = shuffled

    def _item_vectors(self, snapshot: Tensor, items: Tensor) -> list[Tensor]:
        """Both kinds, each [B, n, D], of item rows [B, n]."""
        table = self.keys.item_vectors
        return gather_kinds(table, snapshot[:, None] * table.shape[1] + self.shuffled_items[items])


@dataclass(frozen=True)
class _Asked:
    """What is the same for every item of a query.

    Attributes:
        user, snapshot: of each query [B].
        profile: its keys [B, 2, D].
        taste: what it liked, of unit scale [B, D].
        first, second: vectors of its history's items, of both kinds, each [B, L, D].
        shrink: what makes them unit vectors [B, 2, L].
        values: what it said of them [B, L].
        met: which of them count [B, L].
    """

    user: Tensor
    snapshot: Tensor
    profile: Tensor
    taste: Tensor
    first: Tensor
    second: Tensor
    shrink: Tensor
    values: Tensor
    met: Tensor

    @property
    def past(self) -> tuple[Tensor, Tensor]:
        """Of both kinds."""
        return self.first, self.second

    def part(self, rows: slice) -> _Asked:
        """Some of the queries."""
        return _Asked(*(getattr(self, field.name)[rows] for field in fields(self)))


def _order(size: int, seed: int | None) -> Tensor:
    """Rows as they are, or dealt anew; padding and unknown stay."""
    if seed is None:
        return torch.arange(size)
    moved = torch.randperm(size - 2, generator=torch.Generator().manual_seed(seed)) + 2
    return torch.cat([torch.arange(2), moved])
