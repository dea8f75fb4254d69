"""Answers of peers judged by our own metrics: the full catalogue, seen items left out, one code for all."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from corral.cli.experiment import Experiment
from corral.data.batches import Query
from corral.data.candidates import Candidates
from corral.data.split import Part
from corral.data.targets import Targets
from corral.evaluation.click_metrics import click_metrics
from corral.evaluation.evaluate import evaluate
from corral.evaluation.result import Evaluation

# Probabilities are kept so far from 0 and 1: float32 has no more to say.
SURE = 1e-7


class GivenLists:
    """Lists that were made elsewhere, as a ``RecallChannel``.

    Args:
        targets: whose queries the lists answer, one after the other.
        lists: item rows [Q, T], best first, 0-padded.
        catalogue: item rows that may be recommended.

    Raises:
        ValueError: not one list a query, or an item outside the catalogue.
    """

    name = "given"

    def __init__(self, targets: Targets, lists: np.ndarray, catalogue: Tensor) -> None:
        if lists.ndim != 2 or len(lists) != len(targets):
            raise ValueError(f"lists of shape {lists.shape} for {len(targets)} queries: need [{len(targets)}, T]")
        outside = np.setdiff1d(lists, np.append(catalogue.numpy(), 0))
        if len(outside):
            raise ValueError(f"lists: item {outside[0]} has no train event and may not be recommended")
        self._lists = torch.from_numpy(lists.astype(np.int64))
        self._row = {int(event): row for row, event in enumerate(targets.event)}

    def recall(self, query: Query, k: int, exclude: Tensor | None = None, allow: Tensor | None = None) -> Candidates:
        """The first k items of each query's list; scores count down.

        Raises:
            ValueError: a list holds an item that the user had already.
        """
        assert allow is None
        items = self._lists[[self._row[event] for event in query.event.tolist()], :k]
        seen = torch.zeros_like(items, dtype=torch.bool)
        for column in () if exclude is None else exclude.T:
            seen |= (items == column[:, None]) & (items != 0)
        if bool(seen.any()):
            row = int(seen.any(1).nonzero()[0])
            raise ValueError(f"lists: user {int(query.user[row])} had item {int(items[seen][0])} already: leave it out")
        scores = -torch.arange(items.shape[1], dtype=torch.float32).expand(items.shape)
        return Candidates(items, scores.masked_fill(items == 0, -torch.inf))


def judge_lists(experiment: Experiment, lists: np.ndarray) -> Evaluation:
    """Metrics of lists of item rows [Q, T] for the test queries."""
    targets = experiment.targets(Part.TEST)
    return evaluate(
        targets,
        GivenLists(targets, lists, experiment.catalogue),
        num_candidates=lists.shape[1],
        recall_cutoffs=(10, 100),
        item_counts=experiment.counts,
        catalogue=experiment.catalogue.numpy(),
        protocol={**experiment.protocol(), "part": "test"},
    )


def judge_clicks(experiment: Experiment, probabilities: np.ndarray) -> dict[str, float]:
    """Click metrics of probabilities [n] of the test examples.

    Raises:
        ValueError: not one probability an example, or one outside [0, 1].
    """
    examples = experiment.examples(Part.TEST)
    if probabilities.shape != (len(examples),):
        raise ValueError(f"probabilities of shape {probabilities.shape} for {len(examples)} test examples")
    # NaN is neither, and refused too.
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError(f"probabilities must lie in [0, 1], not {probabilities.min()}..{probabilities.max()}")
    kept = np.clip(probabilities.astype(np.float64), SURE, 1 - SURE)
    return click_metrics(examples.label, np.log(kept) - np.log1p(-kept), np.asarray(examples.user))
