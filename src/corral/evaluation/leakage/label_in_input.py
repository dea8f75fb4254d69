"""Label in an input: how well one column alone tells clicks apart, on train and on test.

Shape letters: n rows, W values of a row (1, but for multi-valued columns).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from corral.evaluation.click_metrics import auc
from corral.evaluation.leakage.finding import Finding, Verdict

CHECK = "the label in an input"
BINS = 64
TOO_GOOD, APART = 0.95, 0.2
GOOD_ADVICE = "a single column should not know the label: was it written down after the click? If so, leave it out"
APART_ADVICE = (
    "good in training and useless after: it was computed with the labels of the train rows themselves. Compute it from "
    "other rows (strictly earlier ones), or leave it out"
)
COMPUTED_ADVICE = (
    "where the future and the row itself are clean for it, it is so from the past alone: ask whether clicks and other "
    "rows come about in ways that give them away (hours, items that are never shown), or whether a feature that it is "
    "counted by is itself a leak"
)


@dataclass(frozen=True)
class InputColumn:
    """One column of the inputs, at rows of train and of test.

    Attributes:
        group: what it is a column of: user features, item features, evidence.
        name: its name there.
        train: numbers [n], NaN where missing; or codes [n] or [n, W], integers, 0 where missing.
        test: the same of the test rows.
    """

    group: str
    name: str
    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Strength:
    """AUC of one column alone against the label: .5 says nothing, 1 is the label. NaN where it is not defined."""

    train: float
    test: float

    @property
    def figure(self) -> str:
        """Both as text."""
        return f"AUC alone {self.train:.3f} on train, {self.test:.3f} on test"


def strength(column: InputColumn, train_label: np.ndarray, test_label: np.ndarray, seed: int = 0) -> Strength:
    """How well the column's values, each replaced by the mean label of its train rows, order the rows.

    On train the mean is of the other half of the rows: a value that occurs once tells nothing. Numbers are cut into
    quantiles first, so that a relation of any shape is found; a missing value is a value.

    Args:
        column: its values.
        train_label: 0 or 1 [n].
        test_label: 0 or 1 of the test rows.
        seed: of the halves.
    """
    train, test = _codes(column.train, column.test)
    half = np.random.default_rng((seed, 17)).random(len(train)) < 0.5
    parts = [
        auc(train_label[rows], _mean_label(train[~rows], train_label[~rows], train[rows]))
        for rows in (half, ~half)
        if rows.any() and (~rows).any()
    ]
    defined = [part for part in parts if part == part]
    later = _mean_label(train, train_label, test)
    return Strength(
        float(np.mean(defined)) if defined else float("nan"),
        auc(test_label, later) if len(test_label) else float("nan"),
    )


def _codes(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as codes [n, W], int64, from 0 on; numbers as their own code where few are distinct, else as quantiles."""
    if train.dtype.kind == "f":
        known = train[np.isfinite(train)]
        edges = np.unique(known)
        if len(edges) > BINS:
            edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1]))
        train, test = (np.where(np.isfinite(values), 1 + np.searchsorted(edges, values), 0) for values in (train, test))
    return train.reshape(len(train), -1).astype(np.int64), test.reshape(len(test), -1).astype(np.int64)


def _mean_label(codes: np.ndarray, label: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Mean label of each code of ``codes`` [n, W], drawn to the mean of all by one row; averaged over the codes asked
    of a row [n', W], code 0 left out where there are others: [n']."""
    size = int(max(codes.max(initial=0), asked.max(initial=0))) + 1
    prior = float(label.mean()) if len(label) else 0.5
    rows = np.repeat(label[:, None], codes.shape[1], 1).ravel()
    count = np.bincount(codes.ravel(), minlength=size)
    mean = (np.bincount(codes.ravel(), rows, minlength=size) + prior) / (count + 1)
    if asked.shape[1] == 1:
        return mean[asked[:, 0]]
    there = asked > 0
    total = np.where(there, mean[asked], 0.0).sum(1)
    return np.where(there.any(1), total / np.maximum(there.sum(1), 1), mean[0])


def check_columns(
    columns: Mapping[str, Sequence[InputColumn]],
    train_label: np.ndarray,
    test_label: np.ndarray,
    *,
    computed: Collection[str] = (),
    too_good: float = TOO_GOOD,
    apart: float = APART,
) -> list[Finding]:
    """One finding for each column that is too good or falls apart, and one for each group of those that do not.

    Args:
        columns: by their group.
        train_label: 0 or 1 [n].
        test_label: 0 or 1 [n'].
        computed: groups that are computed from events, and checked for the future and the row itself: of them it is
            only told what is too good or falls apart.
        too_good: an AUC above this, on train or on test, is a leak.
        apart: a fall from train to test by more than this is one; below one half a test says no less than nothing.
    """
    for name, label in (("train", train_label), ("test", test_label)):
        if len(np.unique(label)) < 2:
            return [Finding(CHECK, "all columns", Verdict.SKIPPED, f"all {len(label):,} {name} rows have one label")]
    found = []
    for group, members in columns.items():
        strengths = {one.name: strength(one, train_label, test_label) for one in members}
        good = {name: one for name, one in strengths.items() if max(one.train, one.test) > too_good}
        fallen = {
            name: one for name, one in strengths.items() if name not in good and one.train - max(one.test, 0.5) > apart
        }
        if group in computed and (good or fallen):
            name, one = max((good or fallen).items(), key=lambda known: known[1].train)
            figure = f"{len(good)} of {len(members)} very good, {len(fallen)} fall apart: {name}, {one.figure}"
            found.append(Finding(CHECK, group, Verdict.TOLD, figure, COMPUTED_ADVICE))
            continue
        for name, one in good.items():
            same = " (it equals the label)" if min(one.train, one.test) > 0.9999 else ""
            found.append(Finding(CHECK, f"{group}: {name}", Verdict.LEAK, one.figure + same, GOOD_ADVICE))
        for name, one in fallen.items():
            found.append(Finding(CHECK, f"{group}: {name}", Verdict.LEAK, one.figure, APART_ADVICE))
        rest = {name: one for name, one in strengths.items() if name not in good and name not in fallen}
        if rest:
            name, one = max(rest.items(), key=lambda known: known[1].train)
            found.append(Finding(CHECK, group, Verdict.CLEAN, f"best of {len(rest)}: {name}, {one.figure}"))
    return found
