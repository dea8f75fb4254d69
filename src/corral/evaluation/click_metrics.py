"""Metrics of click labels: AUC, gAUC, log loss, calibration. Pure functions on numpy arrays [n].

Labels are 0 or 1; anything else is refused. Scores may be logits or probabilities where only order counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def _checked(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 [n].

    Raises:
        ValueError: shapes differ, nothing is there, a label is not 0 or 1, a score is NaN.
    """
    labels, scores = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if labels.shape != scores.shape or labels.ndim != 1 or not len(labels):
        raise ValueError(f"click metrics: labels {labels.shape} and scores {scores.shape}; need the same [n], n > 0")
    if not np.isin(labels, (0.0, 1.0)).all():
        raise ValueError(f"click metrics: label {labels[~np.isin(labels, (0.0, 1.0))][0]} is neither 0 nor 1")
    if np.isnan(scores).any():
        raise ValueError("click metrics: a score is NaN")
    return labels, scores


def _midranks(groups: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Rank of each score in its group, ascending from 1, equal scores share the mean of their ranks."""
    order = np.lexsort((scores, groups))
    sorted_groups, sorted_scores = groups[order], scores[order]
    new_group = np.append(True, sorted_groups[1:] != sorted_groups[:-1])
    new_run = new_group | np.append(True, sorted_scores[1:] != sorted_scores[:-1])
    starts = np.flatnonzero(new_run)
    ends = np.append(starts[1:], len(scores))
    run = np.cumsum(new_run) - 1
    group_start = np.flatnonzero(new_group)[np.cumsum(new_group) - 1]
    ranks = np.empty(len(scores))
    ranks[order] = (starts[run] + ends[run] + 1) / 2.0 - group_start
    return ranks


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """How often a click scores above a non-click, ties counted one half; exact (rank sums).

    Args:
        labels: 0 or 1 [n].
        scores: [n], any monotone scale.

    Returns:
        In [0, 1]; NaN where only one label is there.
    """
    labels, scores = _checked(labels, scores)
    clicks, rest = labels.sum(), len(labels) - labels.sum()
    if clicks == 0 or rest == 0:
        return float("nan")
    ranks = _midranks(np.zeros(len(labels), dtype=np.int64), scores)
    return float((ranks[labels == 1].sum() - clicks * (clicks + 1) / 2) / (clicks * rest))


@dataclass(frozen=True)
class GroupedAuc:
    """AUC within users.

    Attributes:
        value: mean over users with both labels, weighted by their number of rows; NaN if there are none.
        users: how many users have both labels.
        user_coverage: their share of all users.
        row_coverage: the share of rows that are theirs.
    """

    value: float
    users: int
    user_coverage: float
    row_coverage: float


def grouped_auc(labels: np.ndarray, scores: np.ndarray, users: np.ndarray) -> GroupedAuc:
    """gAUC: the order each user sees, not whether one user clicks more than another.

    Args:
        labels: 0 or 1 [n].
        scores: [n].
        users: any integers [n].
    """
    labels, scores = _checked(labels, scores)
    if np.shape(users) != labels.shape:
        raise ValueError(f"grouped_auc: users {np.shape(users)} for labels {labels.shape}")
    _, group = np.unique(users, return_inverse=True)
    rows = np.bincount(group).astype(np.float64)
    clicks = np.bincount(group, labels)
    rank_sums = np.bincount(group, _midranks(group, scores) * labels)
    pairs = clicks * (rows - clicks)
    both = pairs > 0
    if not both.any():
        return GroupedAuc(float("nan"), 0, 0.0, 0.0)
    each = (rank_sums[both] - clicks[both] * (clicks[both] + 1) / 2) / pairs[both]
    return GroupedAuc(
        value=float((each * rows[both]).sum() / rows[both].sum()),
        users=int(both.sum()),
        user_coverage=float(both.mean()),
        row_coverage=float(rows[both].sum() / rows.sum()),
    )


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative log-likelihood in nats; probabilities are kept 1e-15 away from 0 and 1.

    Args:
        labels: 0 or 1 [n].
        probabilities: of a click [n], in [0, 1].
    """
    labels, probabilities = _checked(labels, probabilities)
    _check_probabilities(probabilities)
    kept = np.clip(probabilities, 1e-15, 1.0 - 1e-15)
    return float(-np.mean(np.where(labels == 1, np.log(kept), np.log1p(-kept))))


def log_loss_of_logits(labels: np.ndarray, logits: np.ndarray) -> float:
    """As :func:`log_loss` of sigmoid(logits), exact for logits of any size.

    Args:
        labels: 0 or 1 [n].
        logits: [n].
    """
    labels, logits = _checked(labels, logits)
    return float(np.mean(np.logaddexp(0.0, logits) - labels * logits))


@dataclass(frozen=True)
class CalibrationTable:
    """Predicted against actual click rates, in bins of equal numbers of rows.

    Attributes:
        error: expected calibration error: mean |predicted - actual| of the bins, weighted by their rows.
        ratio: mean prediction / click rate of all rows: 1 is right, above 1 promises too much; NaN
            without clicks.
        predicted: mean prediction of each bin.
        actual: click rate of each bin.
        rows: how many rows each bin holds.
    """

    error: float
    ratio: float
    predicted: np.ndarray
    actual: np.ndarray
    rows: np.ndarray


def calibration_table(labels: np.ndarray, probabilities: np.ndarray, bins: int = 20) -> CalibrationTable:
    """Rows sorted by prediction, cut into bins of equal mass; equal predictions are never cut apart.

    Args:
        labels: 0 or 1 [n].
        probabilities: of a click [n], in [0, 1].
        bins: how many; fewer come out where many predictions are equal.
    """
    labels, probabilities = _checked(labels, probabilities)
    _check_probabilities(probabilities)
    if bins < 1:
        raise ValueError(f"calibration_table: bins {bins}, must be at least 1")
    order = np.argsort(probabilities, kind="stable")
    ordered = probabilities[order]
    # A run of equal predictions goes where its first row goes: the result does not depend on row order.
    first = np.searchsorted(ordered, ordered, "left")
    _, bin_of = np.unique(first * bins // len(ordered), return_inverse=True)
    rows = np.bincount(bin_of)
    predicted, actual = np.bincount(bin_of, ordered) / rows, np.bincount(bin_of, labels[order]) / rows
    clicks = labels.mean()
    return CalibrationTable(
        error=float((np.abs(predicted - actual) * rows).sum() / rows.sum()),
        ratio=float(probabilities.mean() / clicks) if clicks > 0 else float("nan"),
        predicted=predicted,
        actual=actual,
        rows=rows,
    )


def _check_probabilities(probabilities: np.ndarray) -> None:
    if probabilities.min() < 0.0 or probabilities.max() > 1.0:
        raise ValueError(f"probabilities must lie in [0, 1], not {probabilities.min()}..{probabilities.max()}")


def click_metrics(labels: np.ndarray, logits: np.ndarray, users: np.ndarray) -> dict[str, float]:
    """All of the above for logits, by name: ``auc``, ``gauc`` (and what it covers), ``logloss``,
    ``calibration_error``, ``predicted_to_actual``.

    Args:
        labels: 0 or 1 [n].
        logits: of a click [n] (calibrate first where they are not trained as such).
        users: whose row it is [n].
    """
    grouped = grouped_auc(labels, logits, users)
    wide = np.asarray(logits, dtype=np.float64)
    table = calibration_table(labels, np.exp(-np.logaddexp(0.0, -wide)))
    return {
        "auc": auc(labels, logits),
        "gauc": grouped.value,
        "gauc_user_coverage": grouped.user_coverage,
        "gauc_row_coverage": grouped.row_coverage,
        "logloss": log_loss_of_logits(labels, logits),
        "calibration_error": table.error,
        "predicted_to_actual": table.ratio,
    }
