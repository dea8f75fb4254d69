"""What a tracker is told of a run, and what it knows already; the Tracker protocol."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker sees it; it may still be training.

    Attributes:
        name: of its directory.
        description: of the recipe.
        settings: text by dotted name.
        facts: data set, its hash, how it is judged, versions.
        logs: records of each stage, one an epoch, by stage.
        metrics: on the test part; empty until the run has been judged.
        files: small ones to keep beside the numbers, sent when it has been.
    """

    name: str
    description: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    logs: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Sequence[Path] = ()


@dataclass(frozen=True)
class Sent:
    """What a tracker has of a run.

    Attributes:
        where: the server and project.
        run: the tracker's name for it.
        epochs: how many of each stage.
        finished: whether it has the test metrics.
    """

    where: str
    run: str
    epochs: Mapping[str, int] = field(default_factory=dict)
    finished: bool = False

    def goes_on(self, run: TrackedRun, where: str) -> bool:
        """Whether more of the same run would go to the same place; one that was trained anew has fewer epochs."""
        fewer = any(len(run.logs.get(stage, ())) < count for stage, count in self.epochs.items())
        return self.where == where and not fewer and not (self.finished and not run.metrics)


class Tracker(Protocol):
    """Something that keeps runs."""

    def where(self) -> str:
        """The server and project that runs go to."""
        ...

    def send(self, run: TrackedRun, known: Sent | None) -> Sent:
        """Sends what the tracker does not have yet; None: it has nothing, so a run is made there.

        Raises:
            ValueError: the tracker refused, or cannot be reached.
        """
        ...


def new_numbers(run: TrackedRun, known: Sent | None) -> Iterator[tuple[str, int, dict[str, float]]]:
    """(stage, epoch, its numbers by ``STAGE/NAME``) of what has not been sent; what is not finite is left out."""
    for stage, records in run.logs.items():
        for record in records[0 if known is None else known.epochs.get(stage, 0) :]:
            named = {name: value for name, value in record.items() if name != "epoch"}
            yield stage, int(record["epoch"]), _finite(named, stage)


def judged_numbers(run: TrackedRun, known: Sent | None) -> dict[str, float]:
    """The test metrics by ``test/NAME``, if they have not been sent."""
    return _finite(run.metrics, "test") if newly_judged(run, known) else {}


def newly_judged(run: TrackedRun, known: Sent | None) -> bool:
    """Whether test metrics and files have yet to be sent."""
    return bool(run.metrics) and not (known is not None and known.finished)


def all_sent(run: TrackedRun, where: str, name: str) -> Sent:
    """What the tracker there has once it has everything of its run of this name."""
    return Sent(where, name, {stage: len(records) for stage, records in run.logs.items()}, bool(run.metrics))


def _finite(numbers: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {f"{prefix}/{name}": float(value) for name, value in numbers.items() if math.isfinite(value)}
