"""The split files that every peer reads: internal rows, nothing of the test but its questions.

Events (leave-last-two-out; lists are asked for):

    train.parquet, valid.parquet    user, item, order (of the event in the log)
    test.parquet                    user; the history of a query is train and valid

Clicks (probabilities are asked for):

    train.parquet, valid.parquet    user, user_id, item, seen, label
    test.parquet                    the same without label
    histories.parquet               items: what the user of row u had, oldest first; ``seen`` of them precede an example

An id without a train event is 1, "unknown", in ``user_id``, ``item`` and ``items``. facts.json: number of user and item
rows, hash of the data, name of the data set, and the settings that all models of the kind share.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from corral.cli.experiment import Experiment
from corral.cli.run_files import write_text
from corral.data.features import FeatureTable
from corral.data.split import Part

FACTS = "facts.json"


def ids_alone(experiment: Experiment) -> Experiment:
    """The same experiment without user and item features: what every peer can read."""
    data = experiment.dataset
    users, items = FeatureTable(data.n_users, {}), FeatureTable(data.n_items, {})
    return replace(experiment, dataset=replace(data, user_features=users, item_features=items))


def write_events(experiment: Experiment, folder: Path, facts: Mapping[str, Any]) -> None:
    """The files of events; facts.json last.

    Raises:
        ValueError: the split asks more than one query of a user.
    """
    targets = experiment.targets(Part.TEST)
    if len(np.unique(targets.user)) < len(targets):
        raise ValueError(f"split {experiment.split.name}: users with several queries; use leave-last-two-out")
    folder.mkdir(parents=True, exist_ok=True)
    events = experiment.dataset.events
    for part in (Part.TRAIN, Part.VALID):
        rows = experiment.split.rows(part)
        # What nobody can be trained on helps nobody as history either.
        rows = rows[experiment.counts[events.item[rows]] > 0]
        frame = pl.DataFrame({"user": events.user[rows], "item": events.item[rows], "order": rows})
        frame.write_parquet(folder / f"{part.name.lower()}.parquet")
    pl.DataFrame({"user": targets.user}).write_parquet(folder / "test.parquet")
    _write_facts(experiment, folder, facts)


def write_clicks(experiment: Experiment, folder: Path, facts: Mapping[str, Any]) -> None:
    """The files of click examples; facts.json last."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = experiment.dataset
    train = experiment.split.part == Part.TRAIN
    known_user = np.bincount(dataset.events.user[train], minlength=dataset.n_users) > 0

    def item_ids(rows: np.ndarray) -> np.ndarray:
        return np.where(experiment.counts[rows] > 0, rows, 1)

    for part in Part:
        examples = experiment.examples(part)
        user = np.asarray(examples.user).astype(np.int64)
        columns = {
            "user": user,
            "user_id": np.where(known_user[user], user, 1),
            "item": item_ids(np.asarray(examples.item).astype(np.int64)),
            "seen": examples.end - examples.histories.offsets[user],
        }
        if part is not Part.TEST:
            columns["label"] = examples.label
        pl.DataFrame(columns).write_parquet(folder / f"{part.name.lower()}.parquet")
    histories = experiment.examples(Part.TRAIN).histories
    items = np.split(item_ids(np.asarray(histories.items).astype(np.int64)), histories.offsets[1:-1])
    pl.DataFrame({"items": items}, schema={"items": pl.List(pl.Int64)}).write_parquet(folder / "histories.parquet")
    _write_facts(experiment, folder, facts)


def _write_facts(experiment: Experiment, folder: Path, facts: Mapping[str, Any]) -> None:
    data = experiment.dataset
    sizes = {"users": data.n_users, "items": data.n_items, "data_hash": data.hash}
    write_text(folder / FACTS, json.dumps({**sizes, **facts}, indent=1) + "\n")
