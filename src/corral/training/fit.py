"""The one training loop: refresh, forward, backward, step, log, validate, keep the best, resume."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from corral.training.checkpoint import load_tensors, random_state, save_tensors, set_random_state
from corral.training.objective import Objective
from corral.training.optimizers import RowWiseAdam


class Loader(Protocol):
    """Batches that depend on (seed, epoch) only, so that training can resume at any batch."""

    def batches_per_epoch(self) -> int:
        """About how many batches an epoch has."""
        ...

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Any]:
        """The batches of an epoch, from ``first_batch`` on."""
        ...


@dataclass
class FitState:
    """Where training stands; all of it is in every checkpoint.

    Attributes:
        epoch: current epoch, from 0.
        batch: batches of it already trained on.
        step: batches in all.
        sums: sum of each loss over the epoch so far.
        seconds: time spent on the epoch so far, also before an interruption (what it threw away not counted).
        best: best value of the watched metric.
        best_epoch: the epoch it belongs to, -1 before the first.
        records: what was logged, one mapping an epoch.
        finished: training has ended (all epochs, or patience).
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    best: float = -math.inf
    best_epoch: int = -1
    records: list[dict[str, float]] = field(default_factory=list)
    finished: bool = False


def _write_log(path: Path, records: list[dict[str, float]]) -> None:
    """The whole log anew: after a kill it never holds an epoch twice."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    temporary.write_text("".join(json.dumps(record) + "\n" for record in records))
    os.replace(temporary, path)


def _save(path: Path, objective: nn.Module, optimizer: RowWiseAdam, state: FitState) -> None:
    tensors = {f"weights.{name}": value for name, value in objective.state_dict().items()}
    tensors |= {f"optimizer.{name}": value for name, value in optimizer.state().items()}
    tensors |= {f"random.{name}": value for name, value in random_state().items()}
    generators = cast(Objective, objective).generators()
    tensors |= {f"generator.{name}": value.get_state() for name, value in generators.items()}
    save_tensors(path, tensors, {"state": state.__dict__})


def _resume(path: Path, objective: nn.Module, optimizer: RowWiseAdam) -> FitState:
    tensors, facts = load_tensors(path)

    def under(prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}

    try:
        objective.load_state_dict(under("weights."))
        optimizer.load_state(under("optimizer."))
        saved = under("generator.")
        for name, generator in cast(Objective, objective).generators().items():
            generator.set_state(saved[name])
    except (RuntimeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: a checkpoint of another model; give this training a directory of its own ({error})"
        ) from error
    set_random_state(under("random."))
    return FitState(**facts["state"])


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
    refresh_every: int = 0,
    directory: Path | None = None,
    checkpoint_seconds: float = 60.0,
    device: torch.device | str = "cpu",
    low_precision: bool = False,
    on_step: Callable[[FitState], None] = lambda state: None,
    on_epoch: Callable[[FitState], None] = lambda state: None,
) -> FitState:
    """Trains until the metric has not improved for ``patience`` validations; leaves the best weights in place.

    Where ``directory`` holds a checkpoint of this training, it goes on from there, with the same result as
    without the interruption (same threads, same versions).

    Args:
        objective: an :class:`~corral.training.objective.Objective` module.
        loader: where batches come from.
        optimizer: over the objective's parameters.
        epochs: at most.
        validate: gives named metrics after an epoch (the model is in eval mode); None: no early stopping.
        metric: the one to watch, higher is better.
        patience: validations without improvement before stopping; 0: never.
        validate_every: epochs between validations (the last epoch is always validated).
        refresh_every: steps between refreshes of the objective; 0: at the start of every epoch.
        directory: for ``checkpoint.safetensors``, ``best.safetensors`` and ``log.jsonl``; None: nothing is kept.
        checkpoint_seconds: time between checkpoints within an epoch.
        device: where batches go; the objective must be there already.
        low_precision: matrix products of the forward pass in bfloat16 (weights and optimizer stay float32).
        on_step: called after every step (progress).
        on_epoch: called after every epoch, when its record is written.

    Returns:
        The final state.

    Raises:
        ValueError: the watched metric is missing, or the loss is not finite.
    """
    state = FitState()
    last, best, log = (directory / name if directory else None for name in _FILES)
    if directory:
        directory.mkdir(parents=True, exist_ok=True)
        for name in _FILES:  # left behind by a process that was killed while it wrote
            for stale in directory.glob(f"{name}.tmp-*"):
                stale.unlink()
        for stale in directory.glob(".tmp*"):  # safetensors writes to such a name first
            stale.unlink()
    if last and last.exists():
        state = _resume(last, objective, optimizer)
        if log:  # the process may have been killed between checkpoint and log
            _write_log(log, state.records)
    saved_at = time.monotonic()
    best_weights: dict[str, Tensor] = {}
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
            for name, value in losses.items():
                state.sums[name] = state.sums.get(name, 0.0) + float(value.detach())
            if not math.isfinite(state.sums["total"]):
                raise ValueError(
                    f"the loss is not finite at step {state.step} (epoch {state.epoch}); lower the learning rate"
                )
            on_step(state)
            if last and time.monotonic() - saved_at > checkpoint_seconds:
                state.seconds = time.monotonic() - began
                _save(last, objective, optimizer, state)
                saved_at = time.monotonic()
        record = {"epoch": state.epoch, "step": state.step, "seconds": round(time.monotonic() - began, 3)}
        record |= {f"loss/{name}": value / max(state.batch, 1) for name, value in state.sums.items()}
        state.epoch, state.batch, state.sums, state.seconds = state.epoch + 1, 0, {}, 0.0
        if validate and (state.epoch % validate_every == 0 or state.epoch == epochs):
            objective.eval()
            with torch.no_grad():
                metrics = dict(validate())
            if metric not in metrics:
                raise ValueError(f"validation gives no {metric!r}; it gives {sorted(metrics)}")
            record |= metrics
            if metrics[metric] > state.best:
                state.best, state.best_epoch = metrics[metric], state.epoch - 1
                best_weights = {name: value.detach().clone() for name, value in objective.state_dict().items()}
                if best:
                    save_tensors(best, best_weights, {"epoch": state.best_epoch, "metric": metric})
            # Patience counts validations, not epochs.
            waited = (state.epoch - 1 - state.best_epoch) // validate_every
            state.finished = bool(patience) and waited >= patience
        state.finished = state.finished or state.epoch >= epochs
        state.records.append(record)
        if last and log:
            _save(last, objective, optimizer, state)
            saved_at = time.monotonic()
            _write_log(log, state.records)
        on_epoch(state)
    if epochs == 0:
        # Nothing is trained, but what is derived from the weights (RAR's neighbours) is needed all the same.
        cast(Objective, objective).refresh()
    if state.best_epoch >= 0:
        if best and not best_weights:
            best_weights, _ = load_tensors(best)
        if best_weights:
            objective.load_state_dict(best_weights)
    objective.eval()
    return state


_FILES = ("checkpoint.safetensors", "best.safetensors", "log.jsonl")
