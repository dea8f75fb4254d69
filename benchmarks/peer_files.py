"""The split files that every peer reads: arrays of internal rows, nothing of the test but its questions.

Events (leave-last-two-out; lists are asked for):

    train.npz, valid.npz    user, item, order (of the event in the log)
    test.npz                user; the history of a query is train and valid

Clicks (probabilities are asked for):

    train.npz, valid.npz    user, user_id, item, seen, label
    test.npz                the same without label
    histories.npz           items, offsets: items[offsets[u]:offsets[u + 1]] is what user row u had, oldest first;
                            ``seen`` of them precede an example

An id without a train event is 1, "unknown", in ``user_id``, ``item`` and ``items``. facts.json: name of the data set,
number of user and item rows, hash of the data.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

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


def write_events(experiment: Experiment, folder: Path, name: str) -> None:
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
        user, item = (column[rows].astype(np.int64) for column in (events.user, events.item))
        np.savez(folder / f"{part.name.lower()}.npz", user=user, item=item, order=rows)
    np.savez(folder / "test.npz", user=targets.user)
    _write_facts(experiment, folder, name)


def write_clicks(experiment: Experiment, folder: Path, name: str) -> None:
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
        np.savez(folder / f"{part.name.lower()}.npz", **columns)
    histories = experiment.examples(Part.TRAIN).histories
    items = item_ids(np.asarray(histories.items).astype(np.int64))
    np.savez(folder / "histories.npz", items=items, offsets=histories.offsets)
    _write_facts(experiment, folder, name)


def _write_facts(experiment: Experiment, folder: Path, name: str) -> None:
    data = experiment.dataset
    facts = {"dataset": name, "users": data.n_users, "items": data.n_items, "data_hash": data.hash}
    write_text(folder / FACTS, json.dumps(facts, indent=1) + "\n")
