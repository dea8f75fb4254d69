"""A training that loses workers, checkpoints and disk, and changes its number of workers; run by test_faults.py.

``python resumed_alike.py FOLDER`` trains CoRR with RAR once undisturbed (FOLDER/whole, one worker) and once by ``PLAN``
(FOLDER/broken), and writes what it finds to FOLDER/found.json.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint
from forked_workers import alone, in_workers
from recipe_systems import RECIPE_SYSTEMS

from corral.data.dataset import Dataset
from corral.data.synthetic import markov_world
from corral.scale.scaled_objective import ScaledObjective
from corral.scale.sharded_adam import ShardedAdam
from corral.scale.sharded_checkpoints import ShardedCheckpoints
from corral.scale.sharded_embedding import unshard_tables
from corral.scale.shared_batches import SharedBatches
from corral.scale.workers import Workers
from corral.training.checkpoint import save_tensors
from corral.training.fit import FitState, fit

# (workers, what happens to the last of them, after how many of its own steps)
PLAN = (
    (2, "killed", 4),
    (1, "full disk", 0),
    (1, "truncated", 4),
    (3, "killed", 3),
    (2, "", 0),
)


class EveryOther(ShardedCheckpoints):
    """A checkpoint every other step, whatever the clock says."""

    calls = 0

    def due(self) -> bool:
        self.calls += 1
        return self.calls % 2 == 0


def train(folder: Path, run: str, workers: Workers, end: str = "", steps: int = 0) -> None:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(5)
    inner, loader = RECIPE_SYSTEMS["corr-rar"](folder, workers)
    objective = ScaledObjective(inner, workers)
    optimizer = ShardedAdam(objective, workers, learning_rate=0.02)
    last, done = workers.rank == workers.size - 1, 0
    if end == "full disk" and last:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    def after(state: FitState) -> None:
        nonlocal done
        done += 1
        if end in ("killed", "truncated") and last and done > steps:
            os.kill(os.getpid(), signal.SIGKILL)

    probe = next(iter(SharedBatches(loader, workers).epoch(99)))

    def validate() -> Mapping[str, float]:
        return {"ndcg@10": -float(objective(probe)["total"])}

    torch.manual_seed(6)
    fit(
        objective,
        SharedBatches(loader, workers),
        optimizer,
        epochs=2,
        validate=validate,
        refresh_every=4,
        checkpoints=EveryOther(folder / run, workers),
        on_step=after,
    )
    unshard_tables(inner)
    if workers.first:
        weights = {name: value for name, value in inner.state_dict().items() if value.is_floating_point()}
        save_tensors(folder / f"{run}.final", weights, {"draw": float(torch.rand(()))})


def newest(folder: Path) -> Path:
    return max(folder.glob("checkpoint-*"))


def main() -> None:
    folder = Path(sys.argv[1])
    found: list[dict[str, Any]] = []
    alone(lambda: Dataset.write(folder / "markov", markov_world(70, 12, length=15).interactions) and None)
    in_workers(1, folder, lambda workers: train(folder, "whole", workers))
    for number, end, steps in PLAN:
        work: Callable[[Workers], None] = lambda workers, end=end, steps=steps: train(  # noqa: E731
            folder, "broken", workers, end, steps
        )
        try:
            in_workers(number, folder, work)
            failed = False
        except SystemExit:
            failed = True
        if end == "truncated":
            shard = max(newest(folder / "broken").glob("*.safetensors"))
            os.truncate(shard, shard.stat().st_size // 2)
        there = sorted(path.name for path in (folder / "broken").iterdir())
        found.append({"workers": number, "end": end, "failed": failed, "there": there})
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
