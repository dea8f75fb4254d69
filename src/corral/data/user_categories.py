"""UserCategories: what a user did with each value of an item feature, strictly before any moment.

Shape letters: n events, B queries, N items per query, M items, W values of an item, C codes, P pairs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from corral.data.features import FeatureColumn, FeatureKind, FeatureTable
from corral.data.running_sums import RunningSums
from corral.data.vocabulary import FIRST_ROW

# The first so many values of a multi-valued feature count, as in the models' fields.
_MOST_VALUES = 8


def countable(features: FeatureTable) -> list[FeatureColumn]:
    """The columns with codes: categorical and multi-valued."""
    return [one for one in features.columns.values() if one.kind in (FeatureKind.CATEGORICAL, FeatureKind.MULTI)]


class UserCategories(nn.Module):
    """Counts, and residuals where there are labels, of (user, value) pairs, and their mean and maximum over an item.

    Args:
        name: of the feature.
        codes: of each item, 0-padded [M, W]; not saved: they are the feature table's.
        cardinality: C, the reserved codes included.
        pairs: user * C + code of the pairs that occur [P], int64, ascending.
        sums: by the pair's number 0 .. P - 1, and P for pairs that do not occur; value: residual, or none.
    """

    codes: Tensor
    pairs: Tensor

    def __init__(self, name: str, codes: Tensor, cardinality: int, pairs: Tensor, sums: RunningSums) -> None:
        super().__init__()
        self.name, self.cardinality, self.sums = name, cardinality, sums
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("pairs", pairs)
        self.labelled = sums.sums.shape[1] > 0
        parts = ("count", "residual") if self.labelled else ("count",)
        self.names = tuple(f"{name}_{part}_{over}" for part in parts for over in ("mean", "max"))

    @classmethod
    def of(
        cls, column: FeatureColumn, user: Tensor, item: Tensor, moment: Tensor, values: Tensor, *, num_moments: int
    ) -> UserCategories:
        """Counts n events.

        Args:
            column: of the item features, with codes.
            user, item, moment: [n], int64.
            values: [n, 1] or, without labels, [n, 0], int64; see ``RunningSums``.
            num_moments: T.
        """
        codes = _codes(column)
        of_event = codes[item]
        event, place = (of_event >= FIRST_ROW).nonzero(as_tuple=True)
        pairs, number = (user[event] * column.cardinality + of_event[event, place]).unique(return_inverse=True)
        sums = RunningSums(number, moment[event], values[event], num_entities=len(pairs) + 1, num_moments=num_moments)
        return cls(column.name, codes, column.cardinality, pairs, sums)

    @property
    def sizes(self) -> dict[str, int]:
        """What :meth:`empty` needs."""
        return {"pairs": len(self.pairs), "events": len(self.sums.keys)}

    @classmethod
    def empty(cls, column: FeatureColumn, *, pairs: int, events: int, values: int, moments: int) -> UserCategories:
        """Of the given sizes, to load saved buffers into."""
        sums = RunningSums.empty(entities=pairs + 1, events=events, values=values, moments=moments)
        return cls(column.name, _codes(column), column.cardinality, torch.zeros(pairs).long(), sums)

    def with_items(self, column: FeatureColumn) -> UserCategories:
        """The same counts for other items whose codes mean the same."""
        return UserCategories(self.name, _codes(column).to(self.codes.device), self.cardinality, self.pairs, self.sums)

    def forward(self, user: Tensor, items: Tensor, moment: Tensor, smoothing: float) -> Tensor:
        """[B, N, 2], with labels [B, N, 4]: see ``names``; 0 for items without values.

        Args:
            user: [B], int64.
            items: [B, N], int64.
            moment: [B], int64.
            smoothing: events that a residual is shrunk by.
        """
        codes = self.codes[items].long()
        batch, wide = len(user), codes.shape[1] * codes.shape[2]
        if self.cardinality <= wide:
            # Fewer codes than values of the items: each code is looked up once.
            every = torch.arange(self.cardinality, device=codes.device).expand(batch, -1)
            table = self._of(user, every, moment, smoothing)
            at = codes.view(batch, wide, 1).expand(-1, -1, table.shape[2])
            found = table.gather(1, at).unflatten(1, codes.shape[1:])
        else:
            found = self._of(user, codes.view(batch, wide), moment, smoothing).unflatten(1, codes.shape[1:])
        there = (codes >= FIRST_ROW)[..., None]
        mean = found.masked_fill(~there, 0.0).sum(2) / there.sum(2).clamp(min=1)
        most = found.masked_fill(~there, -torch.inf).amax(2).masked_fill(~there.any(2), 0.0)
        return torch.stack([mean, most], -1).flatten(2)

    def _of(self, user: Tensor, codes: Tensor, moment: Tensor, smoothing: float) -> Tensor:
        """Log-count, and residual, of codes [B, K]: [B, K, 1 or 2]."""
        wanted = user[:, None] * self.cardinality + codes
        number = torch.searchsorted(self.pairs, wanted)
        if len(self.pairs):
            known = self.pairs[number.clamp(max=len(self.pairs) - 1)] == wanted
            number = number.masked_fill(~known, len(self.pairs))
        first, stop = self.sums.before(number, moment[:, None])
        count = stop - first
        columns = [count.float().log1p()]
        if self.labelled:
            columns.append(self.sums.total(first, stop)[..., 0] / (count + smoothing))
        return torch.stack(columns, -1)


def _codes(column: FeatureColumn) -> Tensor:
    """[M, W], int32; each value of an item once: its events count once, however often the data name it."""
    codes = column.values[:, None] if column.kind is FeatureKind.CATEGORICAL else column.padded(_MOST_VALUES)
    codes = np.array(codes, dtype=np.int32)
    for place in range(1, codes.shape[1]):
        codes[(codes[:, :place] == codes[:, place, None]).any(1), place] = 0
    return torch.from_numpy(codes)
