"""The one training loop: refresh, forward, backward, step, log, validate, keep the best, resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from corral.training.checkpoints import Checkpoints, FileCheckpoints
from corral.training.fit_state import FitState
from corral.training.objective import Objective, renew
from corral.training.optimizers import RowWiseAdam


class Loader(Protocol):
    """Batches that depend on (seed, epoch) only, so that training can resume at any batch."""

    def batches_per_epoch(self) -> int:
        """About how many batches an epoch has."""
        ...

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Any]:
        """The batches of an epoch, from ``first_batch`` on."""
        ...


def fit(
    objective: nn.Module,
    loader: Loader,
    optimizer: RowWiseAdam,
    *,
    epochs: int,
    validate: Callable[[], Mapping[str, float]] | None = None,
    metric: str = "ndcg@10",
    patience: int = 5,
    validate_every: int = 1,
    later: nn.Module | None = None,
    refresh_every: int = 0,
    directory: Path | None = None,
    checkpoints: Checkpoints | None = None,
    checkpoint_seconds: float = 60.0,
    device: torch.device | str = "cpu",
    low_precision: bool = False,
    on_step: Callable[[FitState], None] = lambda state: None,
    on_epoch: Callable[[FitState], None] = lambda state: None,
) -> FitState:
    """Trains until the metric has not improved for ``patience`` validations; leaves the best weights in place.

    Parts of an objective may need different times: a ranker begins to overfit while its retriever still learns. Such a
    part is given as ``later``: after the training it takes its weights of the last epoch, where the metric, with the
    best epoch's weights in all the rest, is then higher than at the best epoch.

    Where ``directory`` holds a checkpoint of this training, it goes on from there, with the same result as
    without the interruption (same threads, same versions); also where it had ended, and ``epochs`` is more now.

    Args:
        objective: an :class:`~corral.training.objective.Objective` module.
        loader: where batches come from.
        optimizer: over the objective's parameters.
        epochs: at most.
        validate: gives named metrics after an epoch (the model is in eval mode); None: no early stopping.
        metric: the one to watch, higher is better.
        patience: validations without improvement before stopping; 0: never.
        validate_every: epochs between validations (the last epoch is always validated).
        later: a part of the objective, see above; no weights shared with, or derived from, other parts.
        refresh_every: steps between refreshes of the objective; 0: at the start of every epoch.
        directory: for ``checkpoint.safetensors``, ``best.safetensors`` and ``log.jsonl``; None: nothing is kept.
        checkpoints: another place to keep training in than a directory's files.
        checkpoint_seconds: time between checkpoints within an epoch.
        device: where batches go; the objective must be there already.
        low_precision: matrix products of the forward pass in bfloat16 (weights and optimizer stay float32).
        on_step: called after every step (progress).
        on_epoch: called after every epoch, when its record is written.

    Returns:
        The final state.

    Raises:
        ValueError: the watched metric is missing or not a number, or the loss is not finite.
    """
    if checkpoints is None and directory is not None:
        checkpoints = FileCheckpoints(directory, seconds=checkpoint_seconds)
    state = (checkpoints.resume(objective, optimizer) if checkpoints else None) or FitState()
    best_weights: dict[str, Tensor] = {}

    def impatient() -> bool:
        """Patience counts validations, not epochs."""
        return bool(validate and patience) and (state.epoch - 1 - state.best_epoch) // validate_every >= patience

    if state.epoch < epochs:  # a finished training that is given more epochs goes on
        state.finished = state.finished and impatient()
    while not state.finished and state.epoch < epochs:
        began = time.monotonic() - state.seconds
        objective.train()
        if refresh_every == 0 and state.batch == 0:
            cast(Objective, objective).refresh()
        for batch in loader.epoch(state.epoch, state.batch):
            if refresh_every and state.step % refresh_every == 0:
                cast(Objective, objective).refresh()
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=low_precision):
                losses = objective(batch.to(device))
            optimizer.zero_grad()
            losses["total"].backward()
            optimizer.step()
            state.step += 1
            state.batch += 1
            # All of them at once: a GPU is waited for once a step.
            together = [value.detach().to(losses["total"].device, torch.float64) for value in losses.values()]
            values = torch.stack(together).tolist()
            for name, value in zip(losses, values, strict=True):
                state.sums[name] = state.sums.get(name, 0.0) + value
                state.counts[name] = state.counts.get(name, 0) + 1
            if not math.isfinite(state.sums["total"]):
                raise ValueError(
                    f"the loss is not finite at step {state.step} (epoch {state.epoch}); lower the learning rate"
                )
            on_step(state)
            if checkpoints and checkpoints.due():
                state.seconds = time.monotonic() - began
                checkpoints.save(objective, optimizer, state)
        record = {"epoch": state.epoch, "step": state.step, "seconds": round(time.monotonic() - began, 3)}
        # What is no loss is named with a slash.
        record |= {
            name if "/" in name else f"loss/{name}": value / state.counts[name] for name, value in state.sums.items()
        }
        state.epoch, state.batch, state.sums, state.counts, state.seconds = state.epoch + 1, 0, {}, {}, 0.0
        if validate and (state.epoch % validate_every == 0 or state.epoch == epochs):
            objective.eval()
            with torch.no_grad():
                renew(objective)
                metrics = dict(validate())
            if metric not in metrics:
                raise ValueError(f"validation gives no {metric!r}; it gives {sorted(metrics)}")
            if math.isnan(metrics[metric]):
                raise ValueError(
                    f"{metric} is not defined on this validation part (nan), so no epoch is better than another by it; "
                    "watch another metric, or split otherwise"
                )
            record |= metrics
            if metrics[metric] > state.best:
                state.best, state.best_epoch = metrics[metric], state.epoch - 1
                best_weights = _copy(objective)
                if checkpoints:
                    checkpoints.save_best(objective, {"epoch": state.best_epoch, "metric": metric})
            state.finished = impatient()
        state.finished = state.finished or state.epoch >= epochs
        state.records.append(record)
        if checkpoints:
            checkpoints.save(objective, optimizer, state)
        on_epoch(state)
    if epochs == 0:
        # Nothing is trained, but what is derived from the weights (RAR's neighbours) is needed all the same.
        cast(Objective, objective).refresh()
    if epochs == 0 or not validate:
        renew(objective)
    if state.best_epoch >= 0:
        last_weights = _copy(later) if later is not None else {}
        if best_weights:
            objective.load_state_dict(best_weights)
        elif checkpoints:
            checkpoints.load_best(objective)
        if later is not None and validate and state.best_epoch < state.epoch - 1:
            state.later = _try_later(objective, later, last_weights, validate, metric, state.best)
    objective.eval()
    return state


def _try_later(
    objective: nn.Module,
    later: nn.Module,
    weights: Mapping[str, Tensor],
    validate: Callable[[], Mapping[str, float]],
    metric: str,
    best: float,
) -> float:
    """The metric with these weights in a part; the part keeps them where they are better than ``best``."""
    before = _copy(later)
    later.load_state_dict(weights)
    objective.eval()
    with torch.no_grad():
        value = validate()[metric]
    if value <= best:
        later.load_state_dict(before)
    return value


def _copy(module: nn.Module) -> dict[str, Tensor]:
    """Its weights, as they are now."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
