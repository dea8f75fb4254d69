"""The retriever's vectors as RAR's keys: another stage's knowledge, from snapshots without the rows they serve."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from corral.cli.experiment import Experiment
from corral.cli.retriever_stage import train_retriever
from corral.data.batches import Query
from corral.data.split import Part, Split
from corral.data.whole_batch import by_shares
from corral.rar.keys import GivenKeys
from corral.rar.time_rules import TimeRule
from corral.retrieval.evaluation_mode import evaluation_mode

_ROWS = 4096
_VALIDATED = 0.1


def retriever_keys(experiment: Experiment, rule: TimeRule) -> GivenKeys:
    """One retriever a snapshot, trained on its events alone; query vectors of all its users, vectors of all its items.

    Trained like the recipe's retriever (``retriever_training``), the latest tenth of the snapshot's own events as its
    validation: what the snapshot serves does not even choose the epoch. But for a snapshot of all train events, which
    validation and test see: its epoch is the run's validation's to choose. Finished ones are loaded. Items without an
    event in the snapshot have no key (zero), nor have users whom it does not describe.
    """
    assert experiment.inputs is not None
    log, dataset = experiment.inputs.train_log, experiment.dataset
    train = experiment.split.rows(Part.TRAIN)
    users: list[Tensor] = []
    items: list[Tensor] = []
    for snapshot in range(rule.snapshots):
        held = rule.holds(snapshot, log.user, log.time)
        if not held.any():
            users.append(torch.zeros(dataset.n_users, 0))
            items.append(torch.zeros(dataset.n_items, 0))
            continue
        split = experiment.split if held.all() else _part_of(experiment, train[held])
        folder = experiment.directory / "keys" / f"snapshot-{snapshot}"
        own = replace(experiment, split=split, directory=folder)
        retriever = train_retriever(own)
        own.share_unknown(retriever)
        users.append(_user_vectors(own, retriever, train[rule.describes(snapshot, log.user, log.time)]))
        items.append(_item_vectors(own, retriever))
    size = max(one.shape[1] for one in users)
    stacked = [
        torch.stack([torch.nn.functional.pad(one, (0, size - one.shape[1])) for one in part]) for part in (users, items)
    ]
    return GivenKeys(stacked[0], stacked[1])


class LiveKeys:
    """The vectors of the retriever that trains or serves beside the ranker, as its weights are when asked.

    Users as of a snapshot's end, by the events it holds; the weights have seen all of train.
    """

    def __init__(self, experiment: Experiment, retriever: nn.Module, rule: TimeRule) -> None:
        self.live = experiment.settings.together is not None
        self._experiment, self._retriever, self._rule = experiment, retriever, rule

    def users(self, snapshot: int) -> Tensor:
        """See ``KeySource``."""
        assert self._experiment.inputs is not None
        log, train = self._experiment.inputs.train_log, self._experiment.split.rows(Part.TRAIN)
        held = self._rule.holds(snapshot, log.user, log.time)
        if not held.any():  # a first block
            return torch.zeros(self._experiment.dataset.n_users, 1)
        told = self._rule.describes(snapshot, log.user, log.time)
        return _user_vectors(self._experiment, self._retriever, train[told])

    def items(self, snapshot: int) -> Tensor:
        """See ``KeySource``."""
        return _item_vectors(self._experiment, self._retriever)


def _part_of(experiment: Experiment, held: np.ndarray) -> Split:
    """The same split with these train events alone: the latest of them validate."""
    split, time = experiment.split, np.asarray(experiment.dataset.events.time)[held]
    latest = np.argsort(time, kind="stable")[len(held) - max(int(len(held) * _VALIDATED), 1) :]
    part = np.full_like(split.part, Part.TEST)
    part[held] = Part.TRAIN
    part[held[latest]] = Part.VALID
    return replace(split, part=part)


@torch.no_grad()
def _user_vectors(experiment: Experiment, retriever: Any, train: np.ndarray) -> Tensor:
    """Query vectors [U, D] of every user, as of the snapshot's last event."""
    dataset, length = experiment.dataset, experiment.history_length
    keep = np.zeros(len(dataset.events.item), dtype=bool)
    keep[train] = True
    held = replace(experiment.split, part=np.where(keep, Part.TRAIN, Part.TEST), train_history_only=True)
    histories = held.histories(dataset)
    rows = np.unique(np.asarray(dataset.events.user)[train]).astype(np.int64)
    last = np.asarray(dataset.events.time)[train].max()

    def encode(some: Tensor) -> Tensor:
        users = some.numpy()
        query = Query(
            some,
            torch.full((len(some),), -1),
            histories.gather(users, histories.offsets[users + 1], length),
            torch.full((len(some),), int(last)),
        )
        vectors: Tensor = retriever.encode_queries(query.to(experiment.device)).float()
        return vectors

    found = []
    with evaluation_mode(retriever):
        for some in torch.from_numpy(rows).tensor_split(max(len(rows) // _ROWS, 1)):
            found.append(by_shares(some, encode).cpu())
    vectors = torch.cat(found)
    return vectors.new_zeros(dataset.n_users, vectors.shape[1]).index_copy_(0, torch.from_numpy(rows), vectors)


@torch.no_grad()
def _item_vectors(experiment: Experiment, retriever: Any) -> Tensor:
    """Vectors [M, D] of every item with an event in the snapshot."""

    def encode(some: Tensor) -> Tensor:
        vectors: Tensor = retriever.encode_items(some.to(experiment.device)).float()
        return vectors

    with evaluation_mode(retriever):
        rows = experiment.catalogue
        vectors = torch.cat([by_shares(some, encode).cpu() for some in rows.split(_ROWS)])
    return vectors.new_zeros(experiment.dataset.n_items, vectors.shape[1]).index_copy_(0, rows, vectors)
