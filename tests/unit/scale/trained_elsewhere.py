"""The same trainings on the CPU and on another device; run by test_other_device.py.

``python trained_elsewhere.py FOLDER corr,rar RECIPE ...`` compares, of systems (recipe_systems.py), the losses and
weights of six steps, and, of runs (RUNS), every metric, what is served, and a training that goes on. An
AssertionError names what differs; an operator with tensors of both devices ends it with its place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from other_device import NAME, OtherDevice, OtherTensor
from recipe_systems import recipe_system, write_worlds
from torch import Tensor

from corral.cli.experiment import Experiment
from corral.cli.recipes import read_recipe
from corral.cli.run import open_recommender, train_run
from corral.serving.recommendations import Recommendations
from corral.training.fit import FitState
from corral.training.optimizers import RowWiseAdam

STEPS = 6
_SMALL = (
    "retriever={kind: sasrec, size: 8, blocks: 1, max_length: 6}",
    "ranker.field_size=4",
    "ranker.hidden=[6]",
    "ranker.history_length=4",
    "evaluation.num_candidates=8",
)
_TOGETHER = (*_SMALL, "together.num_negatives=6", "together.num_codewords=3", "together.epochs=2")
_APART = (
    *_SMALL,
    "retriever_training.num_negatives=6",
    "retriever_training.epochs=1",
    "ranker_training.num_negatives=6",
    "ranker_training.depth=8",
    "ranker_training.epochs=2",
)
_CLICKS = (
    *_SMALL,
    "retriever={kind: two-tower, size: 8}",
    "retriever_training.epochs=1",
    "ranker_training.epochs=2",
    "ranker_training.sampled_negatives=2",
)
# Recipe, world, settings: from events to a served list.
RUNS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "corr": ("corr", "markov", _TOGETHER),
    "corr-rar": ("corr-rar", "markov", (*_TOGETHER, "ranker.rar={keys: live, blocks: 3, rerank: 5}")),
    "two-stage": ("two-stage", "markov", _APART),
    "gru4rec": ("two-stage", "markov", (*_APART, "retriever={kind: gru4rec, size: 8, max_length: 6}")),
    "rar-plus": ("rar-plus", "checkerboard", _CLICKS),
    "independent": ("independent-general", "checkerboard", (*_APART, "retriever={kind: two-tower, size: 8}")),
}


class Stopped(Exception):
    pass


def steps(folder: Path, name: str, device: str) -> tuple[list[dict[str, float]], dict[str, NDArray[Any]]]:
    """The losses of each step, and the weights after them; in float64, see trained_alike.py."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(5)
    objective, loader = recipe_system(name, device)(folder, None)
    objective.to(device)
    optimizer = RowWiseAdam(objective, learning_rate=0.02, weight_decay=0.01, max_norm=0.5)
    losses: list[dict[str, float]] = []
    for step, batch in zip(range(STEPS), loader.epoch(0), strict=False):
        if step % 3 == 0:
            refreshed: Any = objective
            refreshed.refresh()
        objective.train()
        values: dict[str, Tensor] = objective(batch.to(device))
        optimizer.zero_grad()
        values["total"].backward()
        norm = optimizer.step()
        losses.append({"norm": float(norm), **{key: float(value.detach()) for key, value in values.items()}})
    if device != "cpu":
        here = [key for key, value in objective.named_parameters() if not isinstance(value, OtherTensor)]
        assert not here, f"on the CPU: {here}"
    torch.set_default_dtype(torch.float32)
    return losses, {key: value.cpu().numpy() for key, value in objective.state_dict().items()}


def run(folder: Path, name: str, device: str) -> tuple[dict[str, float], Recommendations]:
    """The metrics of a run that was stopped after its first epoch, and its lists."""
    recipe, world, overrides = RUNS[name]
    directory = folder / f"{name}-{device}"
    given = (f"data={{path: {folder / world}}}", f"device={device}", "threads=1", *overrides)
    settings = read_recipe(recipe, given)

    def stop(phase: str, state: FitState) -> None:
        raise Stopped

    with suppress(Stopped):
        train_run(Experiment.start(settings, directory, quiet=True, on_epoch=stop))
    result = train_run(Experiment.start(settings, directory, quiet=True))
    lists = open_recommender(directory, device).recommend(list(range(9)), 5, explain=True)
    return {key: value for key, value in result.metrics.items() if value == value}, lists


def check_that_it_refuses() -> None:
    """What the device must refuse for the comparison to say anything."""
    there, here = torch.ones(3, device=NAME), torch.ones(3)
    place = torch.zeros(2, dtype=torch.int64)
    refused: tuple[Callable[[], Any], ...] = (
        lambda: there + here,
        lambda: there.index_select(0, place),
        lambda: torch.cat((there, here)),
        lambda: here[place.to(NAME)],
        lambda: there.numpy(),
        lambda: torch.rand(2, device=NAME, generator=torch.Generator()),
    )
    for number, refusal in enumerate(refused):
        try:
            refusal()
        except (RuntimeError, TypeError):
            continue
        raise AssertionError(f"refusal {number} did not take place")
    assert (there + torch.tensor(1.0))[place].tolist() == [2, 2]


def main() -> None:
    folder, systems, runs = Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:]
    torch.set_num_threads(1)
    write_worlds(folder)
    with OtherDevice():
        check_that_it_refuses()
    for name in systems:
        losses, weights = steps(folder, name, "cpu")
        with OtherDevice():
            others, theirs = steps(folder, name, NAME)
        assert weights.keys() == theirs.keys(), name
        for step, (one, other) in enumerate(zip(losses, others, strict=True)):
            assert one == pytest.approx(other, rel=1e-9), f"{name}, step {step}"
        for key, value in weights.items():
            np.testing.assert_allclose(value, theirs[key], rtol=0, atol=1e-7, err_msg=f"{name}, {key}")
        print(name, flush=True)
    for name in runs:
        metrics, lists = run(folder, name, "cpu")
        with OtherDevice():
            elsewhere, their_lists = run(folder, name, NAME)
        assert metrics == pytest.approx(elsewhere, rel=1e-4), name
        assert lists.item_ids == their_lists.item_ids, name
        np.testing.assert_allclose(lists.scores, their_lists.scores, rtol=1e-3, atol=1e-4, err_msg=name)
        print(name, flush=True)


if __name__ == "__main__":
    main()
