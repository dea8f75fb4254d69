"""Slices: the same metrics for some of the users and some of the items.

Users are sliced by how many events they had before the query, and into cold and known ones; a slice's metrics are
means over its queries. Items are sliced by popularity; a slice's metrics are means over its *targets*,
because one basket may hold popular and rare items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from corral.evaluation.result import Evaluation

# Where a bucket of history lengths begins.
ACTIVITY_STARTS: tuple[int, ...] = (0, 1, 5, 10, 20, 50)
ITEM_GROUPS: dict[int, str] = {3: "head", 2: "mid", 1: "tail", 0: "cold"}


@dataclass(frozen=True)
class Slice:
    """Metrics of a part of the queries or targets.

    Attributes:
        by: "history length", "user", or "item popularity".
        name: the part, such as "5-9", "cold", "tail".
        count: queries (targets, by item popularity) in it; parts without any are not listed.
        metrics: means by name.
    """

    by: str
    name: str
    count: int
    metrics: dict[str, float]


def slices(evaluation: Evaluation, k: int = 10) -> list[Slice]:
    """Slices of the served list and of the ceiling.

    Args:
        evaluation: what was measured.
        k: cutoff of the list; its nDCG must have been measured.

    Returns:
        Parts by history length (``ndcg@k``, ``recall@k``, ``retriever/recall@N``), by cold and known user
        (the same), by item popularity (``recall@k``: share of these targets in the first k places,
        ``gain@k``: mean 1 / log2(rank + 1) within them, ``retriever/recall@N``).
    """
    ceiling = f"retriever/recall@{evaluation.num_candidates}"
    queries, history = evaluation.queries, evaluation.queries["history"]
    parts: list[tuple[str, str, np.ndarray]] = []
    for start, after in zip(ACTIVITY_STARTS, [*ACTIVITY_STARTS[1:], None], strict=True):
        if after is None:
            parts.append(("history length", f"{start}+", history >= start))
        else:
            name = str(start) if after == start + 1 else f"{start}-{after - 1}"
            parts.append(("history length", name, (history >= start) & (history < after)))
    parts.append(("user", "cold", queries["cold_user"]))
    parts.append(("user", "known", ~queries["cold_user"]))
    found = []
    for by, name, mask in parts:
        if mask.any():
            names = [f"ndcg@{k}", f"recall@{k}", ceiling]
            means = {metric: float(evaluation.per_query[metric][mask].mean(dtype=np.float64)) for metric in names}
            found.append(Slice(by, name, int(mask.sum()), means))
    rank, recalled = evaluation.targets[evaluation.served.value], evaluation.targets["retriever"]
    inside = (rank > 0) & (rank <= k)
    gain = np.where(inside, 1.0 / np.log2(np.maximum(rank, 1) + 1.0), 0.0)
    reached = (recalled > 0) & (recalled <= evaluation.num_candidates)
    for group, name in ITEM_GROUPS.items():
        mask = evaluation.targets["group"] == group
        if mask.any():
            means = {
                f"recall@{k}": float(inside[mask].mean()),
                f"gain@{k}": float(gain[mask].mean()),
                ceiling: float(reached[mask].mean()),
            }
            found.append(Slice("item popularity", name, int(mask.sum()), means))
    return found
