"""RunReport: all that the page says of one run, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from corral.evaluation.calibration import Calibration
from corral.evaluation.result import Evaluation
from corral.report.data_summary import DataSummary
from corral.report.example_lists import Example
from corral.report.stage_probe import StageProbe


@dataclass(frozen=True)
class ClickResults:
    """What the ranker said of events whose click label is known.

    Attributes:
        labels: 0 or 1 [n].
        logits: the ranker's [n].
        calibration: what ``predict`` makes of the logits.
    """

    labels: np.ndarray
    logits: np.ndarray
    calibration: Calibration


@dataclass(frozen=True)
class RunReport:
    """One trained and judged system.

    Attributes:
        name: of the run.
        description: of the recipe.
        evaluation: on the test part.
        system: what the run is one seed of; its own name where empty.
        data: what it was trained and judged on.
        logs: records of each stage that was trained, one an epoch, by stage.
        watched: the validation metric that chose each stage's epoch, by stage.
        epochs: whether a retriever that trained with its ranker kept its last epoch; empty where that was not tried.
        examples: lists of real users.
        probe: both stages looked at closer, where there are two.
        correction: what fitting the ranker's held-out correction found; empty where none was fitted.
        clicks: where the data has click labels.
        settings: all of them, nested.
        settings_text: the same as YAML.
        versions: what produced the result.
        seconds: time of each phase by name.
        written: when the run ended.
    """

    name: str
    evaluation: Evaluation
    data: DataSummary
    system: str = ""
    description: str = ""
    logs: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    watched: Mapping[str, str] = field(default_factory=dict)
    epochs: Mapping[str, float] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    probe: StageProbe | None = None
    correction: Mapping[str, float] = field(default_factory=dict)
    clicks: ClickResults | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    settings_text: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    written: str = ""


def by_system(runs: Iterable[RunReport]) -> dict[str, list[RunReport]]:
    """The runs (seeds) of each system, in the order of their first runs."""
    systems: dict[str, list[RunReport]] = {}
    for run in runs:
        systems.setdefault(run.system or run.name, []).append(run)
    return systems
