"""Queries: what the models are asked of users, from what is stored of them, came later, or is given in the call.

Shape letters: B users of a call, b users of a block of them, L history length, E items to hide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corral.data.batches import Query
from corral.serving.filters import GivenHistories
from corral.serving.serving_tables import ServingTables


@dataclass(frozen=True)
class Queries:
    """Makes queries.

    Attributes:
        tables: vocabularies and stored histories.
        history_length: L, the latest items of a user that the models see.
    """

    tables: ServingTables
    history_length: int

    def stored(self, rows: np.ndarray) -> np.ndarray:
        """The stored histories [b, L] of user rows [b]."""
        return self.tables.histories.gather(rows, self.history_length)

    def later(self, user_ids: Sequence[Any], recent: Mapping[Any, Sequence[Any]] | None) -> GivenHistories:
        """Recent events by the users of a call."""
        lists = None if recent is None else [recent.get(user) for user in user_ids]
        return GivenHistories(self.tables.items, lists, len(user_ids))

    def latest(self, rows: np.ndarray, later: GivenHistories, block: slice | np.ndarray) -> np.ndarray:
        """The stored histories [b, L] of user rows [b], and what came later."""
        stored = self.stored(rows)
        if not later.lengths[block].any():
            return stored
        joined = np.concatenate([stored, later.gather(block, self.history_length)], axis=1)
        padding_first = np.argsort(joined != 0, axis=1, kind="stable")
        return np.take_along_axis(joined, padding_first, axis=1)[:, -self.history_length :]

    def known(
        self, rows: np.ndarray, later: GivenHistories, given: GivenHistories, block: slice | np.ndarray
    ) -> np.ndarray:
        """The histories [b, L] that the models see of user rows [b]: the given ones, or the latest."""
        latest = self.latest(rows, later, block)
        replaced = given.lengths[block] > 0
        if replaced.any():
            latest[replaced] = given.gather(block, self.history_length)[replaced]
        return latest

    def query(self, rows: np.ndarray, history: np.ndarray, time: int | None, features: Mapping[str, Tensor]) -> Query:
        """What the models are asked, on the CPU.

        Args:
            rows: user rows [b].
            history: item rows [b, L].
            time: of the request; None = just after the export's latest event, so that it has happened.
            features: of the request, by name, each [b, ...].

        Raises:
            ValueError: the time does not fit into int64.
        """
        moment = self.tables.histories.as_of + 1 if time is None else int(time)
        if not -(2**63) <= moment < 2**63:
            told = "" if time is not None else ", just after the latest stored event: that one's time is wrong"
            raise ValueError(f"time {moment} does not fit into int64{told}")
        return Query(
            user=torch.from_numpy(rows),
            event=torch.full((len(rows),), -1),
            history=torch.from_numpy(history),
            time=torch.full((len(rows),), moment, dtype=torch.int64),
            features=features,
        )

    def seen(self, rows: np.ndarray, others: Sequence[GivenHistories], block: slice) -> Tensor:
        """Items to hide [b, E], 0-padded: the stored history's, and the others'."""
        stored = self.tables.histories.gather(rows, None)
        return torch.from_numpy(np.concatenate([stored, *(one.gather(block, None) for one in others)], axis=1))
