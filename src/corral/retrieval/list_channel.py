"""ListChannel: lists that some other system made, one a user, as a RecallChannel.

Shape letters: B queries, T list length, E exclusions per query, U user rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from corral.data.batches import Query
from corral.data.candidates import Candidates
from corral.data.history import last_items
from corral.retrieval.index import allowed


class ListChannel:
    """The same list for every query of a user, whatever its time; an empty one for users that have none.

    Excluded items are taken out and the items below move up. Scores are 0, -1, -2 ... down the list.

    Args:
        items: item rows of all lists, one after the other, best first, without repeats in a list.
        offsets: [U + 1], int64; the list of user row u is ``items[offsets[u]:offsets[u + 1]]``.
        name: the channel's name in reports.
    """

    def __init__(self, items: np.ndarray, offsets: np.ndarray, name: str = "lists") -> None:
        assert offsets[-1] == len(items), (len(items), offsets)
        self.name = name
        # last_items pads at the front: what is stored last comes first.
        self._reversed, self._offsets = np.ascontiguousarray(items[::-1]), len(items) - offsets

    @torch.no_grad()
    def recall(self, query: Query, k: int, exclude: Tensor | None = None, allow: Tensor | None = None) -> Candidates:
        """The first k items left in each user's list; see ``RecallChannel``."""
        user = query.user.cpu().numpy()
        rows = last_items(self._reversed, self._offsets[user + 1], self._offsets[user], None)
        items = torch.from_numpy(rows).flip(1).to(query.user.device)
        left = items != 0
        if allow is not None:
            left &= allowed(items, allow)
        if exclude is not None and exclude.shape[1]:
            ordered = exclude.to(items.device).sort(dim=1).values
            place = torch.searchsorted(ordered, items).clamp(max=ordered.shape[1] - 1)
            left &= ordered.gather(1, place) != items
        up = (~left).to(torch.uint8).argsort(dim=1, stable=True)
        moved = items.masked_fill(~left, 0).gather(1, up)[:, :k]
        found = torch.zeros((len(query), k), dtype=torch.int64, device=items.device)
        found[:, : moved.shape[1]] = moved
        falling = -torch.arange(k, dtype=torch.float32, device=items.device).expand(len(query), -1)
        return Candidates(found, torch.where(found != 0, falling, -torch.inf))
