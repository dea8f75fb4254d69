"""Paired bootstrap: how sure is the difference between two systems judged on the same queries?

Shape letters: Q queries, C clusters (users).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from corral.evaluation.result import Evaluation, differing_rules

# Draws held at once: 2**23 indices of 8 bytes, whatever the number of resamples.
_CHUNK_ELEMENTS = 1 << 23


@dataclass(frozen=True)
class PairedDifference:
    """Second system minus first.

    Attributes:
        first: the first system's mean, over the queries both have.
        second: the second's.
        difference: second - first.
        low: lower end of the interval.
        high: upper end.
        p: two-sided: twice the share of resamples on the other side of zero (at most 1, never 0).
        level: of the interval, such as 0.95.
        n_queries: queries compared.
        n_clusters: what was resampled: users, or queries where every query is its own.
        n_resamples: how often.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    level: float
    n_queries: int
    n_clusters: int
    n_resamples: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval says that the systems differ."""
        return self.low > 0.0 or self.high < 0.0

    @property
    def verdict(self) -> str:
        """The interval in words, of the second system; whether higher is better is for the metric to say."""
        return "higher" if self.low > 0.0 else "lower" if self.high < 0.0 else "not told apart"


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    clusters: np.ndarray | None = None,
    *,
    n_resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Percentile bootstrap of the mean difference, whole clusters drawn with replacement.

    Args:
        first: per-query values [Q]; NaN leaves the query out.
        second: per-query values of the other system [Q], same queries, same order.
        clusters: whose query it is [Q], any integers; queries of one user rise and fall together, so users
            are resampled, not queries. None: every query is its own cluster.
        n_resamples: how many resamples.
        level: of the interval, in (0, 1).
        seed: of the draws.

    Raises:
        ValueError: lengths differ, or fewer than two clusters have both values.
    """
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"paired_difference: {first.shape} and {second.shape} are not the same queries")
    if clusters is not None and clusters.shape != first.shape:
        raise ValueError(f"paired_difference: clusters {clusters.shape} for queries {first.shape}")
    if not 0.0 < level < 1.0 or n_resamples < 1:
        raise ValueError(f"paired_difference: level {level} or n_resamples {n_resamples} out of range")
    both = ~(np.isnan(first) | np.isnan(second))
    first, second = first[both].astype(np.float64), second[both].astype(np.float64)
    difference = second - first
    if clusters is None:
        sums, sizes = difference, np.ones(len(difference))
    else:
        _, owner = np.unique(clusters[both], return_inverse=True)
        sums, sizes = np.bincount(owner, difference), np.bincount(owner).astype(np.float64)
    n = len(sums)
    if n < 2:
        raise ValueError(f"paired_difference: {n} clusters have both values; at least 2 are needed")
    generator = np.random.default_rng(seed)
    means = np.empty(n_resamples)
    step = max(1, _CHUNK_ELEMENTS // n)
    equal_sizes = bool((sizes == sizes[0]).all())
    for start in range(0, n_resamples, step):
        drawn = generator.integers(0, n, (min(step, n_resamples - start), n))
        total = sums[drawn].sum(axis=1)
        means[start : start + len(drawn)] = total / (n * sizes[0] if equal_sizes else sizes[drawn].sum(axis=1))
    low, high = np.quantile(means, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    side = min(int((means <= 0.0).sum()), int((means >= 0.0).sum()))
    return PairedDifference(
        first=float(first.mean()),
        second=float(second.mean()),
        difference=float(difference.mean()),
        low=float(low),
        high=float(high),
        p=min(1.0, 2.0 * (side + 1) / (n_resamples + 1)),
        level=level,
        n_queries=len(difference),
        n_clusters=n,
        n_resamples=n_resamples,
    )


def user_clusters(user: np.ndarray) -> np.ndarray:
    """A cluster for each query [Q]: its user; queries of unknown users (row 0 or 1) stand alone.

    Args:
        user: user rows [Q].
    """
    return np.where(user > 1, user, -1 - np.arange(len(user)))


def compare(
    first: Sequence[Evaluation],
    second: Sequence[Evaluation],
    metric: str = "ndcg@10",
    *,
    n_resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Paired bootstrap over users between two systems, each judged in one or more runs (seeds).

    A query's value is its mean over a system's runs, so the interval speaks of the systems' expected
    quality for other users, not of other seeds.

    Args:
        first: runs of the first system.
        second: runs of the second.
        metric: a name in ``per_query``.
        n_resamples: how many resamples.
        level: of the interval.
        seed: of the draws.

    Raises:
        ValueError: runs were judged by different rules or on different queries, or lack the metric.
    """
    runs = [*first, *second]
    if not first or not second:
        raise ValueError("compare: each system needs at least one run")
    for run in runs:
        rules = differing_rules(runs[0].protocol, run.protocol)
        if rules:
            told = "; ".join(f"{name}: {runs[0].protocol.get(name)!r} != {run.protocol.get(name)!r}" for name in rules)
            raise ValueError(f"compare: the runs were not judged alike: {told}")
        if metric not in run.per_query:
            raise ValueError(f"compare: a run has no per-query {metric!r}; it has {sorted(run.per_query)}")
    values = [
        np.mean([run.per_query[metric].astype(np.float64) for run in system], axis=0) for system in (first, second)
    ]
    return paired_difference(
        values[0],
        values[1],
        user_clusters(runs[0].queries["user"]),
        n_resamples=n_resamples,
        level=level,
        seed=seed,
    )
