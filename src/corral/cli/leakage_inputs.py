"""What an experiment's models are given, as functions of a data set and its split: for ``corral leakage``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from torch import Tensor

from corral.cli import build
from corral.cli.experiment import Experiment
from corral.data.batches import Batch
from corral.data.dataset import Dataset
from corral.data.examples import Examples
from corral.data.features import FeatureKind, FeatureTable
from corral.data.split import Part, Split
from corral.evaluation.leakage.inputs import RowInput, TableInput
from corral.evaluation.leakage.label_in_input import InputColumn
from corral.ranking.as_of_evidence import AsOfEvidence
from corral.ranking.evidence import CoVisitationEvidence, Evidence

T = TypeVar("T")

# Values of a multi-valued feature that are looked at.
_VALUES = 16


def row_inputs(experiment: Experiment) -> list[RowInput]:
    """What a ranker of this experiment is given for a row, its embeddings aside."""
    found = [RowInput("history", lambda dataset, split: lambda batch: batch.query.history)]
    ranker = experiment.settings.ranker
    if ranker is not None and (chosen := ranker.evidence) is not None:

        def co_visitation(other: Experiment) -> Evidence:
            return CoVisitationEvidence(_known(other.co_visitation), recent=chosen.recent, decay=chosen.decay)

        steps = range(chosen.recent, 0, -1)
        names = [f"{what} the latest item but {r - 1}" for what in ("after", "before") for r in steps]
        names += ["decayed sum", "decayed sum by count", "steps met", "item count", "strongest"]
        found.append(_evidence_input("co-visitation", experiment, co_visitation, names))
    if experiment.as_of is not None:
        names = list(experiment.as_of.names)
        found.append(
            _evidence_input("as-of statistics", experiment, lambda other: AsOfEvidence(_known(other.as_of)), names)
        )
    if experiment.behaviour is not None:
        found.append(_evidence_input("look-alikes' behaviour", experiment, lambda other: _known(other.behaviour)))
    if experiment.similar_rows is not None:
        found.append(_evidence_input("similar rows", experiment, lambda other: _known(other.similar_rows)))
    return found


def _evidence_input(
    name: str, experiment: Experiment, of: Callable[[Experiment], Evidence], columns: Sequence[str] = ()
) -> RowInput:
    """Evidence as this experiment would make it from other events.

    Args:
        name: for people.
        experiment: its settings are kept.
        of: the evidence of an experiment.
        columns: what its numbers are called.
    """

    def build_anew(dataset: Dataset, split: Split) -> Callable[[Batch], Tensor]:
        evidence = of(replace(experiment, dataset=dataset, split=split, quiet=True))
        return lambda batch: evidence(batch.query, batch.item[:, None])

    return RowInput(name, build_anew, columns)


def _known(made: T | None) -> T:
    assert made is not None
    return made


def table_inputs(experiment: Experiment) -> list[TableInput]:
    """What training is given once for all rows."""

    def users(dataset: Dataset, split: Split) -> list[np.ndarray]:
        return [np.bincount(dataset.events.user[split.part == Part.TRAIN], minlength=dataset.n_users) > 0]

    def scales(dataset: Dataset, split: Split) -> list[np.ndarray]:
        specs = build.scale_specs(dataset, split)
        return [np.array(scale) for table in specs.values() for scale in table.values()]

    found = [
        TableInput("popularity", lambda dataset, split: [split.train_counts(dataset)]),
        TableInput("catalogue", lambda dataset, split: [split.train_counts(dataset) > 0]),
        TableInput("known users", users),
        TableInput("scales of numeric features", scales),
    ]
    if experiment.settings.ranker_training.sampled_negatives:

        def negatives(dataset: Dataset, split: Split) -> list[np.ndarray]:
            return [replace(experiment, dataset=dataset, split=split).examples(Part.TRAIN).item]

        found.append(TableInput("sampled negatives", negatives))
    return found


def input_columns(
    experiment: Experiment, train: Examples, test: Examples, rows: list[RowInput]
) -> dict[str, list[InputColumn]]:
    """Every column that a ranker may read, at the rows of train and test: features, and inputs that are numbers."""
    dataset, split = experiment.dataset, experiment.split
    tables = {
        "user features": (dataset.user_features, train.user, test.user),
        "item features": (dataset.item_features, train.item, test.item),
    }
    found = {
        group: [
            InputColumn(group, name, *(_at(table, name, np.asarray(part)) for part in parts))
            for name, column in table.columns.items()
            if column.kind is not FeatureKind.TEXT
        ]
        for group, (table, *parts) in tables.items()
    }
    for one in rows:
        here, there = (one.values(dataset, split, part, experiment.history_length) for part in (train, test))
        if here.dtype.kind == "f":
            names = one.columns or [f"number {c}" for c in range(here.shape[1])]
            found[one.name] = [InputColumn(one.name, name, here[:, c], there[:, c]) for c, name in enumerate(names)]
    return {group: columns for group, columns in found.items() if columns}


def _at(table: FeatureTable, name: str, rows: np.ndarray) -> np.ndarray:
    column = table.columns[name]
    values = column.padded(_VALUES) if column.kind is FeatureKind.MULTI else column.values
    return np.asarray(values[rows])
