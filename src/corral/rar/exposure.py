"""Which pairs the train log shows, as of a time: RAR's exposure labels, and what look-alikes did (``rar-plus``).

Shape letters: n events, ... any shape of pairs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from corral.rar.tables import Tables


class PairLog(Tables):
    """The events of a log by (user, item) and time, to look pairs up as of a time.

    One sorted key a pair, one a (pair, time): two binary searches a lookup, whatever the log's size.

    Args:
        pairs: distinct user * num_items + item [P], ascending, int64.
        times: distinct times [R], ascending, int64.
        order: place in ``pairs`` * (R + 1) + place in ``times`` of each event [n], ascending, int64.
        values: what is known of each event [n], in that order.
        num_items: item rows.
    """

    pairs: Tensor
    times: Tensor
    order: Tensor
    values: Tensor

    def __init__(self, pairs: Tensor, times: Tensor, order: Tensor, values: Tensor, *, num_items: int) -> None:
        super().__init__()
        self.num_items = num_items
        self.register_buffer("pairs", pairs)
        self.register_buffer("times", times)
        self.register_buffer("order", order)
        self.register_buffer("values", values)

    @classmethod
    def of(
        cls, user: np.ndarray, item: np.ndarray, time: np.ndarray, value: np.ndarray | None = None, *, num_items: int
    ) -> PairLog:
        """The log of events.

        Args:
            user, item, time: of the events [n], integers.
            value: what is known of each, for example the label [n]; None: that it happened (1).
            num_items: item rows.
        """
        pairs, number = np.unique(np.asarray(user).astype(np.int64) * num_items + item, return_inverse=True)
        times, moment = np.unique(np.asarray(time).astype(np.int64), return_inverse=True)
        if len(pairs) * (len(times) + 1) >= 2**63:
            raise ValueError(f"{len(pairs)} pairs at {len(times)} times do not fit a 64-bit key")
        place = number * (len(times) + 1) + moment
        order = np.argsort(place, kind="stable")
        values = np.ones(len(place)) if value is None else np.asarray(value)
        return cls(
            torch.from_numpy(pairs),
            torch.from_numpy(times),
            torch.from_numpy(place[order]),
            torch.from_numpy(values[order].astype(np.float32)),
            num_items=num_items,
        )

    @classmethod
    def empty(cls, num_items: int) -> PairLog:
        """Nothing happened yet; a saved log is loaded into it."""
        none = torch.zeros(0, dtype=torch.int64)
        return cls(none, none, none, torch.zeros(0), num_items=num_items)

    def renumbered(self, moved: Tensor, num_items: int) -> PairLog:
        """The same events for a longer catalogue; ``moved`` [old rows] says where each item row went."""
        span = len(self.times) + 1
        pairs, place = (self.pairs // self.num_items * num_items + moved[self.pairs % self.num_items]).sort()
        number = torch.empty_like(place)
        number[place] = torch.arange(len(place), device=place.device)
        order, at = (number[self.order // span] * span + self.order % span).sort(stable=True)
        return PairLog(pairs, self.times, order, self.values[at], num_items=num_items)

    def before(self, user: Tensor, item: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each pair has an event strictly before ``time``, and the value of the latest such event.

        Args:
            user, item, time: int64, shapes broadcast; times in the log's unit.

        Returns:
            bool [...] and values [...], 0 where there is none.
        """
        wanted = (user * self.num_items + item).contiguous()
        shape = torch.broadcast_shapes(wanted.shape, time.shape)
        values = self.values.new_zeros(shape)
        found = torch.zeros(shape, dtype=torch.bool, device=wanted.device)
        if not len(self.pairs):
            return found, values
        number = torch.searchsorted(self.pairs, wanted).clamp_(max=len(self.pairs) - 1)
        # The pairs that exist at all are few: only they are searched for a second time.
        known = (self.pairs[number] == wanted).expand(shape)
        base = number.expand(shape)[known] * (len(self.times) + 1)
        rank = torch.searchsorted(self.times, time.contiguous()).expand(shape)[known]
        at = torch.searchsorted(self.order, base + rank) - 1
        there = (at >= 0) & (self.order[at.clamp(min=0)] >= base)
        found[known] = there
        values[known] = torch.where(there, self.values[at.clamp(min=0)], 0.0)
        return found, values
