"""Comparison: systems, each judged in one or more runs, held against the first; never across different rules"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from corral.evaluation.result import Evaluation, differing_rules
from corral.evaluation.significance import PairedDifference, compare

COMPARED = ("ndcg@10", "recall@10")


def mean_and_deviation(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation over seeds; None: of one seed, or where a seed has no value (NaN)."""
    if any(math.isnan(value) for value in values):
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare_with_first` found.

    Attributes:
        first: name of the system that the others are held against.
        differences: by (system, metric), of the systems that may be compared.
        strange: of each of the others, by name, the rules that differ from the first's.
    """

    first: str
    differences: dict[tuple[str, str], PairedDifference]
    strange: dict[str, list[str]]

    @property
    def warning(self) -> str:
        """What must be said beside the numbers; nothing where all were judged alike."""
        if not self.strange:
            return ""
        was = "was" if len(self.strange) == 1 else "were"
        return (
            f"NOT COMPARABLE: {', '.join(self.strange)} {was} judged by other rules than {self.first}. The numbers "
            "stand beside each other, but a difference between them says nothing about the systems."
        )


def compare_with_first(systems: Mapping[str, Sequence[Evaluation]], metrics: Sequence[str] = COMPARED) -> Comparison:
    """The first system against each of the others, by paired bootstrap over users.

    Args:
        systems: runs (seeds) of each, by name.
        metrics: those that are not known of each query are left out.
    """
    (name, first), *others = systems.items()
    strange = {
        other: rules
        for other, runs in others
        if (rules := sorted({rule for run in runs for rule in differing_rules(first[0].protocol, run.protocol)}))
    }
    differences = {
        (other, metric): compare(first, runs, metric)
        for other, runs in others
        if other not in strange
        for metric in metrics
        if all(metric in run.per_query for run in (*first, *runs))
    }
    return Comparison(name, differences, strange)
