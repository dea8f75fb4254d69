"""RandomSelector: neighbours drawn by lot, the control that must not help."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corral.data.whole_batch import placed
from corral.rar.selection import Selected

# Pools of at most so many rows for each that is wanted are shuffled; larger ones drawn from.
_SHUFFLED = 8


class RandomSelector(nn.Module):
    """A ``Selector`` that looks at no vector.

    Args:
        seed: of the lots.
    """

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self._generator = torch.Generator()
        self._rows = torch.zeros(0, dtype=torch.int64)

    def fit(self, vectors: Tensor, rows: Tensor) -> None:
        """The pool's rows [n]; vectors are not used. The lots begin anew, so that a resumed run draws the same."""
        self._generator.manual_seed(self.seed)
        self._rows = rows

    def search(self, queries: Tensor, k: int, exclude: Tensor | None = None) -> Selected:
        """k rows of the pool for each query, without replacement; fewer only where the pool has no more."""
        found = torch.zeros(len(queries), k, dtype=torch.int64, device=queries.device)
        if number := len(self._rows):
            whole, own = placed(len(queries))
            shuffled = number <= _SHUFFLED * (k + 1)
            if shuffled:
                lots = torch.rand(whole, number, generator=self._generator)[own].argsort(1)
            else:  # of twice as many lots and some more, k differ (but once in a million queries)
                lots = torch.randint(number, (whole, 2 * k + 8), generator=self._generator)[own]
            drawn = self._rows[lots.to(self._rows.device)].to(queries.device)
            repeated = torch.zeros_like(drawn, dtype=torch.bool)
            if not shuffled:
                repeated = (drawn[:, :, None] == drawn[:, None, :]).tril(-1).any(2)
            if exclude is not None:
                repeated |= drawn == exclude[:, None]
            order = repeated.to(torch.int8).argsort(dim=1, stable=True)[:, :k]
            found[:, : order.shape[1]] = drawn.masked_fill(repeated, 0).gather(1, order)
        return Selected(found, torch.where(found > 0, 0.0, -torch.inf))
