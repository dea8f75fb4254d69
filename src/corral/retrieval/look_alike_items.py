"""LookAlikeItems: the known items that were visited near a new one, which lend it the vector it starts with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corral.data.dataset import Dataset
from corral.data.split import Part, Split
from corral.retrieval.co_visitation import count_pairs


@dataclass(frozen=True)
class LookAlikeItems:
    """E pairs of a new item and a known one, by co-visitation in train events, in both directions.

    Attributes:
        item: rows of new items [E], int64.
        like: rows of known items [E], int64.
        share: of each known item in its new one's vector [E]; they sum to 1 for each new item.
    """

    item: Tensor
    like: Tensor
    share: Tensor

    @classmethod
    def of(cls, dataset: Dataset, split: Split, known: np.ndarray, *, window: int = 5) -> LookAlikeItems:
        """Counts the train events of a split.

        Args:
            dataset: the events.
            split: only its train events are counted.
            known: whether each item row has a vector to lend [M], bool.
            window: largest gap, in events of a user; nearer visits count more, see ``CoVisitation``.
        """
        rows = split.rows(Part.TRAIN)
        items, users = (
            np.asarray(column[rows]).astype(np.int64) for column in (dataset.events.item, dataset.events.user)
        )
        key, weight = count_pairs(items, users, dataset.n_items, window)
        earlier, later = np.divmod(key, dataset.n_items)
        pairs = [(new, old, ~known[new] & known[old]) for new, old in ((earlier, later), (later, earlier))]
        item = np.concatenate([new[chosen] for new, _, chosen in pairs])
        like = np.concatenate([old[chosen] for _, old, chosen in pairs])
        weight = np.concatenate([weight[chosen] for _, _, chosen in pairs])
        total = np.bincount(item, weight, minlength=dataset.n_items)
        return cls(torch.from_numpy(item), torch.from_numpy(like), torch.from_numpy(weight / total[item]).float())

    def lend(self, table: Tensor) -> None:
        """Writes the weighted means of known rows into the rows of new items of ``table`` [M, D]."""
        item, like, share = (part.to(table.device) for part in (self.item, self.like, self.share))
        means = torch.zeros_like(table).index_add_(0, item, table[like] * share[:, None].to(table.dtype))
        table[item] = means[item]
