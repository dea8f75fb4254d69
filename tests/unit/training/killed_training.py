"""Trains in children of this process that kill themselves, until one gets through; run by test_fit.py.

``python killed_training.py SYSTEM FOLDER`` writes, under FOLDER: ``whole`` (a training without interruption),
``killed`` (the same, killed at every moment of ``PLAN``) and each one's ``final.safetensors``. A child is a fork: it
does not import torch again, and nothing has been computed before it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # every optimizer imports it, which costs a child more than its training
from torch import nn

from corral.data.dataset import Dataset
from corral.data.event_loader import EventLoader
from corral.data.examples import Examples
from corral.data.sequence_loader import SequenceLoader
from corral.data.split import Part, time_cut
from corral.data.synthetic import checkerboard_world, markov_world
from corral.retrieval.sasrec import SASRec
from corral.retrieval.two_tower import TwoTower
from corral.sampling.popularity import PopularitySampler
from corral.training import checkpoint, checkpoints, fit
from corral.training.optimizers import RowWiseAdam, warmup_cosine
from corral.training.retrieval_objectives import FullSoftmaxObjective, SampledSoftmaxObjective

# (what, after how many of them, counted anew in each child)
PLAN = (
    ("step", 3),
    ("half a file", 4),
    ("before rename", 2),
    ("step", 9),
    ("after best", 1),
    ("step", 5),
    ("before log", 1),
    ("half a file", 1),
    ("after best", 2),
    ("step", 14),
)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arrange_death(what: str, number: int) -> Any:
    """Sets the trap; returns what to call after every step."""
    left = number

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            die()

    write_tensors, replace, save_tensors, write_log = (
        checkpoint.write_tensors,
        os.replace,
        checkpoints.save_tensors,
        checkpoints.write_log,
    )

    def half_a_file(path: Path, tensors: Any, metadata: Any) -> None:
        nonlocal left
        write_tensors(path, tensors, metadata)
        if left == 1:
            os.truncate(path, os.path.getsize(path) // 2)
        count()

    def before_rename(source: Any, target: Any) -> None:
        count()
        replace(source, target)

    def after_best(path: Path, tensors: Any, facts: Any) -> None:
        save_tensors(path, tensors, facts)
        if path.name == "best.safetensors":
            count()

    def before_log(path: Path, records: Any) -> None:
        count()
        write_log(path, records)

    if what == "half a file":
        checkpoint.write_tensors = half_a_file
    elif what == "before rename":
        os.replace = before_rename
    elif what == "after best":
        checkpoints.save_tensors = after_best
    elif what == "before log":
        checkpoints.write_log = before_log
    return count if what == "step" else lambda: None


def system(name: str, folder: Path) -> tuple[nn.Module, Any]:
    """An objective and its loader: with dropout, a generator, sparse tables, refreshes."""
    torch.manual_seed(5)
    if name == "sasrec":
        data = Dataset.open(folder / "markov")
        split = time_cut(data)
        model: nn.Module = SASRec(data.n_items, size=8, max_length=6, blocks=1, dropout=0.3)
        objective: nn.Module = FullSoftmaxObjective(model, torch.from_numpy(split.catalogue(data)))
        return objective, SequenceLoader(data, split, length=6, batch_size=20, seed=2)
    data = Dataset.open(folder / "checkerboard")
    split = time_cut(data)
    catalogue, counts = torch.from_numpy(split.catalogue(data)), torch.from_numpy(split.train_counts(data))
    model = TwoTower(
        data.n_users, data.n_items, data.user_features, data.item_features, size=6, hidden=(5,), sparse=True
    )
    sampler = PopularitySampler(catalogue, counts[catalogue])
    objective = SampledSoftmaxObjective(model, catalogue, sampler, num_negatives=5, seed=3)
    examples = Examples.of(data, split, Part.TRAIN)
    return objective, EventLoader(examples, history_length=4, batch_size=60, seed=2)


def train(name: str, folder: Path, run: str, death: tuple[str, int] | None) -> None:
    torch.set_num_threads(1)
    clock = iter(range(10**9))
    fit.time.monotonic = lambda: float(next(clock))  # a checkpoint every few steps, not every so many seconds
    objective, loader = system(name, folder)
    optimizer = RowWiseAdam(objective, learning_rate=0.01, weight_decay=0.01, schedule=warmup_cosine(5, 40))
    after_step = arrange_death(*death) if death else lambda: None
    probe = next(iter(loader.epoch(99)))

    def validate() -> Mapping[str, float]:
        return {"ndcg@10": -float(objective(probe)["total"])}

    torch.manual_seed(6)
    state = fit.fit(
        objective,
        loader,
        optimizer,
        epochs=6,
        validate=validate,
        patience=2,
        refresh_every=3 if name == "two-tower" else 0,
        directory=folder / run,
        checkpoint_seconds=2.5,
        on_step=lambda state: after_step(),
    )
    tensors = {**{f"w.{k}": v for k, v in objective.state_dict().items()}, "random": torch.rand(3)}
    checkpoint.save_tensors(folder / f"{run}.final", tensors, {"best": state.best, "best_epoch": state.best_epoch})


def write_data(name: str, folder: Path) -> None:
    world = markov_world(60, 12, length=15) if name == "sasrec" else checkerboard_world(40, 16, length=12)
    Dataset.write(folder / ("markov" if name == "sasrec" else "checkerboard"), world.interactions)


def in_a_child(work: Callable[[], None]) -> bool:
    """True if it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("a child failed")
    return os.WIFSIGNALED(status)


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    in_a_child(lambda: write_data(name, folder))
    assert not in_a_child(lambda: train(name, folder, "whole", None))
    killed = [in_a_child(lambda death=death: train(name, folder, "killed", death)) for death in PLAN]  # type: ignore[misc]
    in_a_child(lambda: train(name, folder, "killed", None))
    print("killed", sum(killed))


if __name__ == "__main__":
    main()
