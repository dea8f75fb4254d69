"""What the lists are made of, whoever likes them: coverage, concentration, novelty, popularity bias.

Shape letters: B queries, T list length, M item rows (rows 0 and 1 included), D events before a query.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def self_information(counts: np.ndarray, in_catalogue: np.ndarray) -> np.ndarray:
    """-log2 of each item's share of the train events [M], in bits; NaN outside the catalogue.

    One event is added to every item of the catalogue, so that an unseen item is surprising, not infinite.

    Args:
        counts: train events of each item row [M].
        in_catalogue: which rows may be recommended [M], bool.
    """
    smoothed = counts.astype(np.float64) + 1.0
    return np.where(in_catalogue, -np.log2(smoothed / smoothed[in_catalogue].sum()), np.nan)


def popularity_percentile(counts: np.ndarray, in_catalogue: np.ndarray) -> np.ndarray:
    """The share of the catalogue that is less popular, equals counted one half [M], in (0, 1).

    Args:
        counts: train events of each item row [M].
        in_catalogue: which rows may be recommended [M], bool; others get NaN.
    """
    values = counts[in_catalogue]
    ordered = np.sort(values)
    below, not_above = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    percentile = np.full(len(counts), np.nan)
    percentile[in_catalogue] = (below + not_above) / (2.0 * max(1, len(values)))
    return percentile


def coverage(exposures: np.ndarray) -> float:
    """Share of the catalogue that stands in at least one list.

    Args:
        exposures: in how many lists each item of the catalogue stands, zeros included.
    """
    return float((exposures > 0).mean()) if len(exposures) else float("nan")


def gini(exposures: np.ndarray) -> float:
    """Gini coefficient of the exposures: 0 = all items shown equally often, near 1 = all shows go to one.

    Args:
        exposures: in how many lists each item of the catalogue stands, zeros included.
    """
    ordered = np.sort(exposures.astype(np.float64))
    total, n = ordered.sum(), len(ordered)
    if total == 0:
        return float("nan")
    return float(((2.0 * np.arange(1, n + 1) - n - 1.0) * ordered).sum() / (n * total))


def popularity_groups(counts: np.ndarray, in_catalogue: np.ndarray) -> np.ndarray:
    """Each item row's group [M], int8: 0 cold, 1 tail, 2 mid, 3 head.

    Items are taken from the most popular down; head is those that got the first third of all train
    events, mid the second, tail the last, so that each third weighs the same in clicks. Items with the
    same count are in the same group (that of the most popular third they reach into). Cold items have
    no train event or are not in the catalogue.
    """
    groups = np.zeros(len(counts), dtype=np.int8)
    known = in_catalogue & (counts > 0)
    ordered = np.sort(counts[known].astype(np.int64))[::-1]
    if not len(ordered):
        return groups
    before = np.cumsum(ordered) - ordered
    first = np.searchsorted(-ordered, -counts[known].astype(np.int64), "left")
    groups[known] = 3 - np.minimum(2, 3 * before[first] // max(1, int(ordered.sum())))
    return groups


class ListStatistics:
    """Counts over served lists, batch by batch; memory is one number an item."""

    def __init__(self, counts: np.ndarray, in_catalogue: np.ndarray, k: int) -> None:
        """Starts with no list.

        Args:
            counts: train events of each item row [M].
            in_catalogue: which rows may be recommended [M], bool.
            k: how much of each list counts.
        """
        self.k = k
        self._in_catalogue = in_catalogue
        self._exposures = np.zeros(len(counts), dtype=np.int64)
        self._information = torch.from_numpy(self_information(counts, in_catalogue))
        self._percentile = torch.from_numpy(popularity_percentile(counts, in_catalogue))

    def update(self, items: Tensor, had: Tensor) -> dict[str, Tensor]:
        """Counts the first k of each list.

        Args:
            items: lists [B, T], best first, 0 = padding.
            had: what the users had before [B, D], 0 = padding.

        Returns:
            Of each query [B] float64: ``novelty@k`` (mean bits), ``popularity@k`` and ``history_popularity``
            (mean percentile) and their difference ``popularity_bias@k``; NaN where there is nothing to mean.
        """
        items, had = items[:, : self.k].cpu(), had.cpu()
        self._exposures += torch.bincount(items.reshape(-1), minlength=len(self._exposures)).numpy()
        shown, before = self._percentile[items].nanmean(dim=1), self._percentile[had].nanmean(dim=1)
        return {
            f"novelty@{self.k}": self._information[items].nanmean(dim=1),
            f"popularity@{self.k}": shown,
            "history_popularity": before,
            f"popularity_bias@{self.k}": shown - before,
        }

    def summary(self) -> dict[str, float]:
        """``coverage@k`` and ``gini@k`` of all lists counted."""
        exposures = self._exposures[self._in_catalogue]
        return {f"coverage@{self.k}": coverage(exposures), f"gini@{self.k}": gini(exposures)}
