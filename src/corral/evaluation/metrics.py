"""Ranking metrics from the rank of every target: pure functions on tensors, no user at a time in Python.

Shape letters: B queries, T list length, n targets of all queries, one after the other (``owner``: whose).

Lists are **totally ordered**: score descending, then item row ascending. Equal scores thus give one fixed
order that has nothing to do with the target, and a scorer that says the same of every item earns what the
item rows earn, never a perfect score. Definitions and denominators: docs/concepts/metrics.md.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from corral.data.candidates import Candidates

# Elements of one [n, T] comparison held at a time: 64 MB of bool and a few of its kind.
_CHUNK_ELEMENTS = 1 << 24
_LAST = torch.iinfo(torch.int64).max


def ranking_order(items: Tensor, scores: Tensor) -> Tensor:
    """The columns of each row in list order: score descending, then item row ascending, padding last.

    Args:
        items: item rows [B, T], int64, 0 = padding.
        scores: [B, T], any float dtype.

    Returns:
        Column indices [B, T], int64.

    Raises:
        ValueError: a score of an item is NaN (a NaN has no place in an order).
    """
    padding = items == 0
    scores = scores.masked_fill(padding, -torch.inf)
    ordered, order = torch.sort(scores, dim=1, descending=True)
    refuse_nan(items.gather(1, order[:, :1]), ordered[:, :1])  # NaN is sorted as the greatest
    if not bool((ordered[:, 1:] == ordered[:, :-1]).any()):
        return order
    # A tie costs two stable sorts; only rows that have one pay for them. Real items may score -inf, too.
    last = padding.gather(1, order)
    tied = (ordered[:, 1:] == ordered[:, :-1]) & ~(last[:, 1:] & last[:, :-1])
    rows = tied.any(dim=1).nonzero().squeeze(1)
    if len(rows):
        by_row = torch.where(padding, _LAST, items)[rows].argsort(dim=1, stable=True)
        by_score = scores[rows].gather(1, by_row).argsort(dim=1, stable=True, descending=True)
        order[rows] = by_row.gather(1, by_score)
    return order


def refuse_nan(items: Tensor, scores: Tensor) -> None:
    """ValueError where an item (not 0) has a score that is not a number: NaN has no place in an order."""
    if bool((scores.isnan() & (items != 0)).any()):
        raise ValueError("scores: NaN for an item to be ranked; the model has diverged or met a NaN input")


def ranked(items: Tensor, scores: Tensor) -> Candidates:
    """The items as a list: score descending, then item row ascending, padding (score -inf) last.

    Args:
        items: item rows [B, T], int64, 0 = padding.
        scores: [B, T].
    """
    order = ranking_order(items, scores)
    ordered = items.gather(1, order)
    return Candidates(ordered, scores.gather(1, order).masked_fill(ordered == 0, -torch.inf))


def target_ranks(items: Tensor, target: Tensor, owner: Tensor) -> Tensor:
    """Where each target stands in its query's list.

    Args:
        items: lists of item rows [B, T], best first, 0 = padding.
        target: item rows [n]; rows below 2 (padding, unknown) are in no list.
        owner: the query of each target [n], 0..B-1.

    Returns:
        Ranks [n], int64, 1 = first, 0 = not in the list.
    """
    ranks = torch.zeros_like(target)
    if not items.shape[1]:
        return ranks
    step = max(1, _CHUNK_ELEMENTS // items.shape[1])
    for start in range(0, len(target), step):
        part = slice(start, start + step)
        equal = items[owner[part]] == target[part, None]
        found, column = equal.max(dim=1)
        ranks[part] = torch.where(found & (target[part] > 1), column + 1, 0)
    return ranks


def ranks_by_score(items: Tensor, scores: Tensor, target: Tensor, owner: Tensor) -> Tensor:
    """As :func:`target_ranks` of :func:`ranked`, by counting the items before each target: no sort.

    Args:
        items: item rows [B, T] in any order, 0 = padding.
        scores: [B, T].
        target: item rows [n].
        owner: the query of each target [n].

    Returns:
        Ranks [n], int64, 1 = first, 0 = not among the items.

    Raises:
        ValueError: the score of an item is not a number.
    """
    refuse_nan(items, scores)
    column = target_ranks(items, target, owner) - 1
    ranks = torch.zeros_like(target)
    found = (column >= 0).nonzero().squeeze(1)
    scores = scores.masked_fill(items == 0, -torch.inf)
    step = max(1, _CHUNK_ELEMENTS // max(1, items.shape[1]))
    for part in found.split(step):
        rows, own = scores[owner[part]], scores[owner[part], column[part]][:, None]
        row_items = items[owner[part]]
        tied = (rows == own) & (row_items < target[part, None]) & (row_items != 0)
        ranks[part] = 1 + ((rows > own) | tied).sum(dim=1)
    return ranks


def ordinals(rank: Tensor, owner: Tensor, n_queries: int) -> Tensor:
    """Each found target's place (1, 2, ...) among the found targets of its query; 0 where rank is 0.

    Args:
        rank: [n], 0 = not found.
        owner: [n].
        n_queries: B.
    """
    result = torch.zeros_like(rank)
    found = (rank > 0).nonzero().squeeze(1)
    if not len(found):
        return result
    rank, owner = rank[found], owner[found]
    order = (owner * (int(rank.max()) + 1) + rank).argsort()
    counts = torch.bincount(owner, minlength=n_queries)
    first = counts.cumsum(0) - counts
    result[found[order]] = torch.arange(len(found), device=rank.device) - first[owner[order]] + 1
    return result


def relevant_counts(owner: Tensor, n_queries: int) -> Tensor:
    """Targets of each query [B], int64, those outside the catalogue included.

    Raises:
        ValueError: a query has none (nothing could be said of it).
    """
    counts = torch.bincount(owner, minlength=n_queries)
    if bool((counts == 0).any()):
        raise ValueError(f"{int((counts == 0).sum())} queries have no target item: leave them out")
    return counts


def list_metrics(rank: Tensor, owner: Tensor, n_relevant: Tensor, cutoffs: Iterable[int]) -> dict[str, Tensor]:
    """nDCG, recall, hit, MRR and MAP of each query at each cutoff.

    With R = n_relevant: recall@k = hits / R; nDCG@k = DCG / DCG of min(R, k) targets on top, gain 1,
    discount 1 / log2(rank + 1); MAP@k = sum of precisions at the hits / min(R, k); MRR@k = 1 / first rank.

    Args:
        rank: rank of each target [n], 1 = first, 0 = not in the list.
        owner: the query of each target [n].
        n_relevant: R of each query [B], at least 1.
        cutoffs: values of k.

    Returns:
        ``{"ndcg@10": [B] float64, ...}``, each in [0, 1].
    """
    cutoffs, n_queries = list(cutoffs), len(n_relevant)

    def summed(values: Tensor) -> Tensor:
        return torch.zeros(n_queries, dtype=torch.float64, device=rank.device).index_add_(0, owner, values)

    found = rank > 0
    place = rank.clamp(min=1).double()
    gain, precision = 1.0 / torch.log2(place + 1.0), ordinals(rank, owner, n_queries) / place
    deepest = max([*cutoffs, 1])
    ideal = (1.0 / torch.log2(torch.arange(2, deepest + 2, dtype=torch.float64, device=rank.device))).cumsum(0)
    metrics = {}
    for k in cutoffs:
        inside = (found & (rank <= k)).double()
        hits, reachable = summed(inside), n_relevant.clamp(max=k)
        first = torch.zeros(n_queries, dtype=torch.float64, device=rank.device)
        first.scatter_reduce_(0, owner, inside / place, "amax")
        metrics[f"ndcg@{k}"] = (summed(inside * gain) / ideal[reachable - 1]).clamp(max=1.0)
        metrics[f"recall@{k}"] = hits / n_relevant
        metrics[f"hit@{k}"] = (hits > 0).double()
        metrics[f"mrr@{k}"] = first
        metrics[f"map@{k}"] = summed(inside * precision) / reachable
    return metrics


def recall(rank: Tensor, owner: Tensor, n_relevant: Tensor, k: int) -> Tensor:
    """recall@k of each query [B], float64: targets in the first k places / targets."""
    inside = ((rank > 0) & (rank <= k)).double()
    hits = torch.zeros(len(n_relevant), dtype=torch.float64, device=rank.device).index_add_(0, owner, inside)
    return hits / n_relevant


def list_auc(items: Tensor, scores: Tensor, target: Tensor, owner: Tensor) -> Tensor:
    """AUC within each list: how often a target scores above an item that is none, ties counted one half.

    Args:
        items: item rows [B, T], 0 = padding.
        scores: [B, T].
        target: item rows [n].
        owner: the query of each target [n].

    Returns:
        [B] float64; NaN where the list holds no target, or nothing else.
    """
    n_queries = len(items)
    column = target_ranks(items, target, owner) - 1
    found = column >= 0
    column, owner = column[found], owner[found]
    scores = scores.masked_fill(items == 0, -torch.inf)
    real = items != 0
    midrank = torch.zeros(len(owner), dtype=torch.float64, device=items.device)
    step = max(1, _CHUNK_ELEMENTS // max(1, items.shape[1]))
    for start in range(0, len(owner), step):
        part = slice(start, start + step)
        rows, own = scores[owner[part]], scores[owner[part], column[part]][:, None]
        mask = real[owner[part]]
        below, tied = ((rows < own) & mask).sum(dim=1), ((rows == own) & mask).sum(dim=1)
        midrank[part] = below + (tied + 1) / 2
    positives = torch.bincount(owner, minlength=n_queries).double()
    negatives = real.sum(dim=1) - positives
    total = torch.zeros(n_queries, dtype=torch.float64, device=items.device).index_add_(0, owner, midrank)
    pairs = positives * negatives
    return torch.where(pairs > 0, (total - positives * (positives + 1) / 2) / pairs, torch.nan)


def rank_agreement(items: Tensor, scores: Tensor) -> Tensor:
    """Spearman's correlation between the order of the columns and the order by score, per query.

    Args:
        items: item rows [B, T], best first by one stage, padding last.
        scores: [B, T], of the other stage.

    Returns:
        [B] float64 in [-1, 1]; NaN where a list has fewer than two items. Ties are broken by row.
    """
    order = ranking_order(items, scores)
    columns = torch.arange(items.shape[1], device=items.device).expand_as(order)
    squares = ((order - columns).double() ** 2).masked_fill(items.gather(1, order) == 0, 0.0).sum(dim=1)
    n = (items != 0).sum(dim=1).double()
    return torch.where(n > 1, 1.0 - 6.0 * squares / (n * (n * n - 1.0)), torch.nan)
