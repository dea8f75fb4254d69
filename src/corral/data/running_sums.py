"""RunningSums: how many events an entity had before a moment, and what their values add up to.

Shape letters: n events, S values of an event, E entities, T moments.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Values are whole numbers of 1 / ONE: sums over 2^33 events in [-1, 1] are exact, in any order, on any device.
ONE = 1 << 30


class RunningSums(nn.Module):
    """Events sorted once by (entity, moment), with sums from the first to each of them.

    Asked for any entity and moment: one binary search, then differences of whole numbers. So what happened to
    other entities, or later, cannot change an answer by a bit. Everything is a buffer.

    Args:
        entity: [n], int64, in [0, E).
        moment: [n], int64, in [0, T): a dense rank of time.
        values: [n, S], int64, in units of 1 / ``ONE``; see :func:`whole`.
        num_entities: E.
        num_moments: T.

    Raises:
        ValueError: E * T does not fit into 63 bits.
    """

    keys: Tensor
    offsets: Tensor
    sums: Tensor

    def __init__(self, entity: Tensor, moment: Tensor, values: Tensor, *, num_entities: int, num_moments: int) -> None:
        super().__init__()
        if num_entities * num_moments >= 2**63:
            raise ValueError(
                f"{num_entities} entities at {num_moments} distinct times do not fit into 63 bits: use coarser times"
            )
        self.num_moments = num_moments
        keys, order = (entity * num_moments + moment).sort(stable=True)
        counts = torch.bincount(entity, minlength=num_entities)
        self.register_buffer("keys", keys)
        self.register_buffer("offsets", running(counts))
        self.register_buffer("sums", running(values[order]))

    @classmethod
    def empty(cls, *, entities: int, events: int, values: int, moments: int) -> RunningSums:
        """Sums of the given sizes, to load saved buffers into."""
        none = torch.zeros(0, dtype=torch.int64)
        made = cls(none, none, none.view(0, values), num_entities=entities, num_moments=moments)
        made.keys, made.sums = torch.zeros(events).long(), torch.zeros(events + 1, values).long()
        return made

    def renumbered(self, moved: Tensor, num_entities: int) -> RunningSums:
        """The same sums for more entities; ``moved`` [old E] says where each went."""
        return RunningSums(
            moved[self.keys // self.num_moments],
            self.keys % self.num_moments,
            self.sums.diff(dim=0),
            num_entities=num_entities,
            num_moments=self.num_moments,
        )

    def before(self, entity: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
        """The entity's first event and the first that is not before the moment: two places, shapes broadcast.

        Their difference is the number of events strictly before the moment.
        """
        stop = torch.searchsorted(self.keys, (entity * self.num_moments + moment).contiguous())
        return self.offsets[entity].expand_as(stop), stop

    def total(self, first: Tensor, stop: Tensor) -> Tensor:
        """Sums of the values of the events at places first .. stop - 1: [..., S], float32."""
        return (self.sums[stop] - self.sums[first]).float() / ONE

    def moments(self, place: Tensor) -> Tensor:
        """The moments of the events at these places; any, where there is no such event."""
        if not len(self.keys):
            return torch.zeros_like(place)
        return self.keys[place.clamp(0, len(self.keys) - 1)] % self.num_moments


def whole(values: Tensor) -> Tensor:
    """Values in [-1, 1] as int64 in units of 1 / ``ONE``; 0 and 1 exactly."""
    return (values.double() * ONE).round().long()


def running(values: Tensor) -> Tensor:
    """Sums of the first 0, 1, ... n of values [n, ...]: [n + 1, ...]."""
    return torch.cat([values.new_zeros(1, *values.shape[1:]), values.cumsum(0)])
