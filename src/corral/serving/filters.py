"""Filters of a request: allow and deny lists of external ids as one mask, and histories given in the call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corral.data.history import last_items
from corral.data.vocabulary import UNKNOWN, Vocabulary

# External ids as they come in a call.
Ids = Sequence[Any] | np.ndarray


def listed(ids: Ids) -> list[Any]:
    """Python's own values: columns of numpy, pandas, arrow and polars give scalars of theirs when gone through."""
    values = getattr(ids, "tolist", None) or getattr(ids, "to_list", None)
    return list(ids) if values is None else values()


def allow_mask(items: Vocabulary, allow: Ids | None, deny: Ids | None) -> Tensor | None:
    """The items a request may answer with, by item row [rows] bool; None = all.

    Args:
        items: the item vocabulary.
        allow: external ids; None = all, an empty list = nothing. Unknown ids are ignored: what is not in
            the catalogue can't be recommended.
        deny: external ids never to return; wins over ``allow``. Unknown ids are ignored.
    """
    if allow is None and deny is None:
        return None
    mask = torch.full((len(items),), allow is None)
    if allow is not None:
        mask[torch.from_numpy(items.rows(allow).astype(np.int64))] = True
    if deny is not None:
        mask[torch.from_numpy(items.rows(deny).astype(np.int64))] = False
    mask[: UNKNOWN + 1] = False
    return mask


class GivenHistories:
    """Histories given in the call, for some of the users: external ids, oldest first.

    Attributes:
        lengths: items of each user that the vocabulary knows [B], int64; 0 where none were given.
        ignored: items of each user that it does not know [B], int64.
        unknown: these items' ids in the order given, by position of the user.
    """

    def __init__(
        self,
        items: Vocabulary,
        histories: Sequence[Sequence[Any] | None] | None,
        n_users: int,
        *,
        what: str = "history",
    ) -> None:
        given: list[Sequence[Any]] = [()] * n_users
        if histories is not None:
            if isinstance(histories, str | bytes) or len(histories) != n_users:
                raise ValueError(f"{what}: need one list (or None) for each of {n_users} users")
            for user, one in enumerate(histories):
                if isinstance(one, str | bytes) or not (one is None or hasattr(one, "__len__")):
                    raise ValueError(f"{what}[{user}]: need a list of item ids, or None, got {one!r}")
            given = [() if one is None else listed(one) for one in histories]
        self.unknown: dict[int, list[Any]] = {}
        if not any(map(len, given)):  # as most requests are
            self.ignored = self.lengths = np.zeros(n_users, dtype=np.int64)
            self._rows, self._offsets = np.empty(0, np.int32), np.zeros(n_users + 1, dtype=np.int64)
            return
        owner = np.repeat(np.arange(n_users), [len(one) for one in given])
        rows = items.rows([item for one in given for item in one])
        known = rows > UNKNOWN
        self.ignored = np.bincount(owner[~known], minlength=n_users)
        self.lengths = np.bincount(owner[known], minlength=n_users)
        starts = np.searchsorted(owner, np.arange(n_users))
        for place in np.flatnonzero(~known).tolist():
            user = int(owner[place])
            self.unknown.setdefault(user, []).append(given[user][place - int(starts[user])])
        self._rows = rows[known]
        self._offsets = np.concatenate([[0], np.cumsum(self.lengths)])

    def gather(self, users: slice | np.ndarray, length: int | None) -> np.ndarray:
        """The last ``length`` known items (None = all) of some of the users; see ``last_items``."""
        return last_items(self._rows, self._offsets[:-1][users], self._offsets[1:][users], length)
