"""What an experiment's models are given, as functions of a data set and its split: for ``corral leakage``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from corral.cli import build
from corral.cli.experiment import Experiment
from corral.cli.rar_parts import make_neighbours
from corral.cli.rar_stage import selectors, side_keys
from corral.data.batches import Batch
from corral.data.dataset import Dataset
from corral.data.examples import Examples
from corral.data.features import FeatureKind, FeatureTable
from corral.data.split import Part, Split
from corral.evaluation.leakage.inputs import RowInput, TableInput
from corral.evaluation.leakage.label_in_input import InputColumn
from corral.evidence_settings import RarSettings
from corral.ranking.as_of_evidence import AsOfEvidence
from corral.ranking.evidence import CoVisitationEvidence
from corral.ranking.linear_evidence import LinearEvidence
from corral.rar.as_of_neighbours import AsOfNeighbours
from corral.rar.keys import KeySource
from corral.rar.neighbours import CataloguePools
from corral.rar.time_rules import Rule

# Values of a multi-valued feature that are looked at.
_VALUES = 16
NEIGHBOURS = "look-alikes and recall items"
# Keys of RAR that are computed from the data; the others come from something trained.
KEYS_OF_DATA = ("profile", "features")


# For people, by the names of the settings.
_TITLES = {
    "evidence": "co-visitation",
    "linear": "linear item weights",
    "as_of": "as-of statistics",
    "behaviour": "look-alikes' behaviour",
    "similar_rows": "similar rows",
}


def row_inputs(experiment: Experiment) -> list[RowInput]:
    """What a ranker of this experiment is given for a row, its embeddings aside."""
    found = [RowInput("history", lambda dataset, split: lambda batch: batch.query.history)]
    evidence = {} if experiment.inputs is None else experiment.inputs.evidence
    latest = [(experiment.dataset, experiment.split, evidence)]

    def made_of(dataset: Dataset, split: Split) -> dict[str, nn.Module]:
        """Evidence as this experiment would make it from other events; each kind asks for the same ones in turn."""
        if latest[0][0] is not dataset or latest[0][1] is not split:
            inputs = replace(experiment, dataset=dataset, split=split, quiet=True).inputs
            assert inputs is not None
            latest[:] = [(dataset, split, inputs.evidence)]
        return latest[0][2]

    def build_anew(name: str) -> Callable[[Dataset, Split], Callable[[Batch], Tensor]]:
        def build(dataset: Dataset, split: Split) -> Callable[[Batch], Tensor]:
            one = made_of(dataset, split)[name]
            return lambda batch: one(batch.query, batch.item[:, None])

        return build

    found += [RowInput(_TITLES[name], build_anew(name), _columns(one)) for name, one in evidence.items()]
    rule = None if experiment.inputs is None else experiment.inputs.rar_rule
    if rule is not None and _rar(experiment).keys in KEYS_OF_DATA:
        apart = rule.rule is Rule.BLOCKS or (rule.rule is Rule.FOLDS and _rar(experiment).as_of_event)
        own = "" if apart else f"as rule={rule.rule.value} has it (where there is time: rule=blocks)"
        found.append(RowInput(NEIGHBOURS, partial(_neighbours, experiment), own=own))
    return found


def _rar(experiment: Experiment) -> RarSettings:
    assert experiment.settings.ranker is not None
    assert experiment.settings.ranker.rar is not None
    return experiment.settings.ranker.rar


def _neighbours(experiment: Experiment, dataset: Dataset, split: Split) -> Callable[[Batch], Tensor]:
    """Rows of the look-alikes and of the recall items [B, Ku + Ki], as RAR would choose them from other events."""
    inputs = replace(experiment, dataset=dataset, split=split, quiet=True).inputs
    assert inputs is not None
    rule, chosen, log = inputs.rar_rule, _rar(experiment), inputs.train_log
    assert rule is not None
    keys: KeySource = inputs.profile_keys(chosen.key_size, rule) if chosen.keys == "profile" else side_keys(dataset)
    neighbours = make_neighbours(chosen.model_dump(), dataset.n_users, dataset.n_items, rule)
    if isinstance(neighbours, AsOfNeighbours):
        neighbours.take(*inputs.profiles_and_log(chosen.key_size, rule))
    pools = CataloguePools(log.user, log.item, log.time, rule)
    neighbours.refresh(keys, pools, selectors(chosen, experiment.settings.seed))

    def asked(batch: Batch) -> Tensor:
        user, time, event = batch.query.user, batch.query.time, batch.query.event.numpy()
        learning = torch.from_numpy((event >= 0) & (split.part[event] == Part.TRAIN))
        snapshot = torch.where(learning, rule.snapshot(time, user, learning=True), rule.snapshot(time, user))
        near = neighbours.recall_items(snapshot, user, batch.item[:, None])
        return torch.cat([neighbours.of_queries(snapshot, batch.query), near[:, 0]], 1)

    return asked


def _columns(evidence: nn.Module) -> list[str]:
    """What its numbers are called, where they have names."""
    if isinstance(evidence, CoVisitationEvidence):
        steps = range(evidence.recent, 0, -1)
        names = [f"{what} the latest item but {r - 1}" for what in ("after", "before") for r in steps]
        return [*names, "decayed sum", "decayed sum by count", "steps met", "item count", "strongest"]
    if isinstance(evidence, LinearEvidence):
        latest = [f"log weight of the latest item but {step}" for step in range(evidence.recent - 1, -1, -1)]
        return [*latest, "log sum of weights", "log decayed sum", "log greatest weight"]
    return list(evidence.statistics.names) if isinstance(evidence, AsOfEvidence) else []


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
    inputs = experiment.inputs
    if inputs is not None and inputs.rar_rule is not None:

        def profiles(dataset: Dataset, split: Split) -> list[np.ndarray]:
            other = replace(experiment, dataset=dataset, split=split, quiet=True).inputs
            assert other is not None
            assert other.rar_rule is not None
            keys = other.profile_keys(8, other.rar_rule)
            return [keys.item_vectors.numpy(), keys.user_vectors.numpy()]

        found.append(TableInput("RAR's profiles", profiles))
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
