"""fit_objective: any objective trained under a run's directory, by its settings, with its bar and its logs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn

from corral.cli.experiment import Experiment
from corral.cli.progress import progress
from corral.cli.scaled_training import judging
from corral.data.clicks import Clicks
from corral.data.event_loader import EventLoader
from corral.data.examples import Examples
from corral.scale.scaled_objective import ScaledObjective
from corral.scale.sharded_adam import ShardedAdam
from corral.scale.shared_batches import SharedBatches
from corral.scale.workers import Workers
from corral.training.checkpoints import Checkpoints, FileCheckpoints
from corral.training.fit import FitState, Loader, fit
from corral.training.optimizers import RowWiseAdam, warmup_constant, warmup_cosine
from corral.training.tensorboard import tensorboard_writer
from corral.training_settings import TrainingSettings

# Named metrics of the models as they stand, in eval mode; what early stopping watches is among them.
Validate = Callable[[], Mapping[str, float]]


def event_loader(
    experiment: Experiment, chosen: TrainingSettings, history_length: int, examples: Examples | Clicks
) -> EventLoader:
    """Examples one by one, shuffled by the run's seed."""
    return EventLoader(
        examples,
        history_length=history_length,
        batch_size=chosen.batch_size,
        seed=experiment.settings.seed,
        max_per_user=getattr(chosen, "max_per_user", 0),
    )


def _optimizer(workers: Workers | None) -> Callable[..., RowWiseAdam]:
    """Of one process, or of one of several workers."""
    return RowWiseAdam if workers is None else partial(ShardedAdam, workers=workers)


def _checkpoints(folder: Path, workers: Workers | None, seconds: float) -> Checkpoints:
    """In files of one process, or of every worker.

    Raises:
        ValueError: the folder holds those of the other kind.
    """
    theirs, kind, wish = (
        ("checkpoint-*", "workers", "say scale.workers=1")
        if workers is None
        else ("checkpoint*.safetensors", "an ordinary process", "leave scale.workers out")
    )
    if any(folder.glob(theirs)):
        raise ValueError(f"{folder}: holds checkpoints of {kind}; {wish} to go on, or give another --run")
    if workers is None:
        return FileCheckpoints(folder, seconds=seconds)
    # Imported here: torch's distributed checkpoints take seconds.
    from corral.scale.sharded_checkpoints import ShardedCheckpoints

    return ShardedCheckpoints(folder, workers, seconds=seconds)


def fit_objective(
    experiment: Experiment,
    name: str,
    objective: nn.Module,
    loader: Loader,
    chosen: TrainingSettings,
    validate: Validate,
    later: nn.Module | None = None,
) -> FitState:
    """Trains an objective; its models then hold the best weights.

    Args:
        experiment: whose seed, device and directory are used.
        name: of the folder below the run's directory, for checkpoints and logs, and of the progress bar. A
            training that left a checkpoint there goes on; one that is finished is loaded.
        objective: an :class:`~corral.training.objective.Objective` module, of one stage or of both.
        loader: its batches.
        chosen: how to train it.
        validate: judges the objective's models after an epoch.
        later: see :func:`~corral.training.fit.fit`.
    """
    total = max(chosen.epochs * loader.batches_per_epoch(), 1)
    schedule = warmup_cosine(chosen.warmup_steps, total) if chosen.cosine else warmup_constant(chosen.warmup_steps)
    objective.to(experiment.device)
    folder, workers = experiment.directory / name, experiment.workers
    if workers is not None:
        objective, loader = ScaledObjective(objective, workers), SharedBatches(loader, workers)
    optimizer = _optimizer(workers)(
        objective,
        learning_rate=chosen.learning_rate,
        weight_decay=chosen.weight_decay,
        max_norm=chosen.max_norm,
        schedule=schedule,
    )
    torch.manual_seed(experiment.settings.seed)
    add_to_tensorboard = tensorboard_writer(folder / "tensorboard") if experiment.writes else lambda record: None

    def judged() -> Mapping[str, float]:
        with judging(workers, objective):
            return validate()

    with progress(f"Training {name}", total, quiet=experiment.quiet) as advance:

        def note(state: FitState) -> None:
            last = state.records[-1]
            add_to_tensorboard(last)
            value = last.get(chosen.metric)
            advance(0, f"epoch {state.epoch}" + ("" if value is None else f", {chosen.metric} {value:.4f}"))
            experiment.on_epoch(name, state)

        return fit(
            objective,
            loader,
            optimizer,
            epochs=chosen.epochs,
            validate=judged,
            metric=chosen.metric,
            patience=chosen.patience,
            validate_every=chosen.validate_every,
            later=later,
            refresh_every=getattr(chosen, "refresh_every", 0),
            checkpoints=_checkpoints(folder, workers, chosen.checkpoint_seconds),
            device=experiment.device,
            low_precision=experiment.low_precision(chosen.low_precision),
            on_step=lambda state: advance(1),
            on_epoch=note,
        )
