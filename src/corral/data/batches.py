"""Query, Batch and SequenceBatch: what models see of the data.

Shape letters: B queries, N items per query, L history length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Query:
    """All that is known before an item is seen.

    Attributes:
        user: user rows [B], int64; 1 (unknown) for a user the vocabulary lacks.
        event: row of the event in the event log [B], int64; -1 when serving (for leave-one-out and folds).
        history: item rows [B, L], int64, oldest first, padded **at the front** with 0, so that
            ``history[:, -1]`` is the latest item (0 where there is no history).
        time: time of the request [B], int64, in the data set's unit (see ``Dataset.header``).
        features: request features by name, each [B, ...]; empty where there are none.
    """

    user: Tensor
    event: Tensor
    history: Tensor
    time: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.user.shape[0]

    def where(self, mask: Tensor) -> Query:
        """The queries for which ``mask`` [B] is True."""
        return Query(
            self.user[mask],
            self.event[mask],
            self.history[mask],
            self.time[mask],
            {name: value[mask] for name, value in self.features.items()},
        )

    def recent(self, length: int) -> Query:
        """The same queries with the last ``length`` items of each history."""
        start = max(self.history.shape[1] - length, 0)
        return Query(self.user, self.event, self.history[:, start:], self.time, self.features)

    def to(self, device: torch.device | str) -> Query:
        """The same query with its tensors on ``device``."""
        return Query(
            self.user.to(device),
            self.event.to(device),
            self.history.to(device),
            self.time.to(device),
            {name: value.to(device) for name, value in self.features.items()},
        )


@dataclass(frozen=True)
class Batch:
    """Labelled (query, item) pairs.

    Attributes:
        query: B queries.
        item: item rows [B], int64: the item of the event.
        label: [B], float32 in [0, 1]: clicked or not (1 for events that are positives by themselves).
        weight: what each counts in a loss [B], float32; None: all alike.
    """

    query: Query
    item: Tensor
    label: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return self.item.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device``."""
        weight = None if self.weight is None else self.weight.to(device)
        return Batch(self.query.to(device), self.item.to(device), self.label.to(device), weight)


@dataclass(frozen=True)
class SequenceBatch:
    """Windows of whole user sequences, for one causal pass with a query at **every** position.

    A causal encoder maps ``items`` [B, L] to queries [B, L + 1, D]; query j has seen the slots before j
    (query 0, and every query that has seen only padding, is the query of an empty history).

    Attributes:
        user: user rows [B], int64.
        items: item rows [B, L], int64, oldest first, padded at the front with 0.
        event: rows of the events in the log [B, L], int64; -1 at padding.
        time: [B, L], int64; 0 at padding.
        query_index: for the item in slot j, the index 0..L of the query that may predict it [B, L], int64:
            j under history rule ``order``, the first slot of j's tie group under ``strict``.
        target_mask: [B, L] bool, True where slot j is a target (a train event whose query is in the window).
        weight: what each event counts in a loss [B, L], float32; None: all alike.
    """

    user: Tensor
    items: Tensor
    event: Tensor
    time: Tensor
    query_index: Tensor
    target_mask: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return self.user.shape[0]

    def to(self, device: torch.device | str) -> SequenceBatch:
        """The same batch on ``device``."""
        return SequenceBatch(
            self.user.to(device),
            self.items.to(device),
            self.event.to(device),
            self.time.to(device),
            self.query_index.to(device),
            self.target_mask.to(device),
            None if self.weight is None else self.weight.to(device),
        )
