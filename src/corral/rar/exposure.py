"""Which pairs the train log shows, as of a time: RAR's exposure labels, and what look-alikes did (``rar-plus``).

Shape letters: n events, ... any shape of pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corral.data.tables import Tables

# Flags a pair: more of them let fewer pairs through that are not in the log, an eighth of them or less.
_FLAGS = 8


class PairLog(Tables):
    """The events of a log by (user, item) and time, to look pairs up as of a time.

    One sorted key a pair, one a (pair, time): two binary searches a lookup, whatever the log's size. Most pairs asked
    about are in no log: a flag where a pair's key is hashed to, one byte read, spares nearly all of them both searches.
    Memory: 8 bytes a pair, 12 an event and 8 to 16 a pair of flags, which are not saved.

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
    flags: Tensor

    def __init__(self, pairs: Tensor, times: Tensor, order: Tensor, values: Tensor, *, num_items: int) -> None:
        super().__init__()
        self.num_items = num_items
        self.register_buffer("pairs", pairs)
        self.register_buffer("times", times)
        self.register_buffer("order", order)
        self.register_buffer("values", values)
        self.register_buffer("flags", _flags(pairs), persistent=False)

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
        shape = torch.broadcast_shapes(user.shape, item.shape, time.shape)
        wanted = (user * self.num_items + item).expand(shape).flatten()
        found = torch.zeros_like(wanted, dtype=torch.bool)
        values = self.values.new_zeros(wanted.shape)
        if len(self.pairs):
            flagged = self.flags.index_select(0, _hashed(wanted, len(self.flags))).nonzero().flatten()
            at, place = _places(self.pairs, wanted, flagged)
            # The pairs that exist at all are few: only they are searched for a second time.
            rank = torch.searchsorted(self.times, time.contiguous()).expand(shape).flatten()[at]
            base = place * (len(self.times) + 1)
            last = torch.searchsorted(self.order, base + rank) - 1
            there = ((last >= 0) & (self.order[last.clamp(min=0)] >= base)).nonzero().flatten()
            at = at[there]
            found[at] = True
            values[at] = self.values[last[there]]
        return found.view(shape), values.view(shape)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.flags = _flags(self.pairs)


def _places(pairs: Tensor, wanted: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Which of ``wanted`` at places ``among`` are pairs: their places, and the pairs'."""
    some = wanted[among]
    place = torch.searchsorted(pairs, some).clamp_(max=len(pairs) - 1)
    there = (pairs[place] == some).nonzero().flatten()
    return among[there], place[there]


def _flags(pairs: Tensor) -> Tensor:
    """True wherever a pair is hashed to; a power of two of them."""
    flags = torch.zeros(1 << max(_FLAGS * len(pairs) - 1, 1).bit_length(), dtype=torch.bool, device=pairs.device)
    flags[_hashed(pairs, len(flags))] = True
    return flags


def _hashed(keys: Tensor, size: int) -> Tensor:
    """Multiplicative hashing: the upper bits of a product with 2^64 over the golden ratio, modulo 2^64."""
    bits = size.bit_length() - 1
    return (keys * -0x61C8864680B583EB).bitwise_right_shift_(64 - bits).bitwise_and_(size - 1)
