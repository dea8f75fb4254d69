"""RandomSelector: neighbours drawn by lot, the control that must not help."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corral.data.whole_batch import placed
from corral.rar.selection import Selected


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
        """k rows of the pool for each query, without replacement but for rare repeats, which are left out."""
        found = torch.zeros(len(queries), k, dtype=torch.int64, device=queries.device)
        if len(self._rows):
            whole, own = placed(len(queries))
            lots = torch.randint(len(self._rows), (whole, k), generator=self._generator)[own]
            found = self._rows[lots.to(self._rows.device)].to(queries.device)
            repeated = (found[:, :, None] == found[:, None, :]).tril(-1).any(2)
            if exclude is not None:
                repeated |= found == exclude[:, None]
            found = found.masked_fill(repeated, 0)
        order = (found == 0).to(torch.int8).argsort(dim=1, stable=True)
        found = found.gather(1, order)
        return Selected(found, torch.where(found > 0, 0.0, -torch.inf))
