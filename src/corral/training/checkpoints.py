"""Checkpoints: where ``fit`` keeps what it needs to go on; FileCheckpoints, in files of one process."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from torch import Tensor, nn

from corral.training.checkpoint import DamagedFileError, load_tensors, random_state, save_tensors, set_random_state
from corral.training.fit_state import FitState
from corral.training.objective import Objective
from corral.training.optimizers import RowWiseAdam

_LAST, _BEST, _LOG = "checkpoint.safetensors", "best.safetensors", "log.jsonl"
_PREVIOUS, _NEXT = "checkpoint.previous.safetensors", "checkpoint.next.safetensors"


class Checkpoints(Protocol):
    """Where a training is kept."""

    def resume(self, objective: nn.Module, optimizer: RowWiseAdam) -> FitState | None:
        """Takes the last state back that is not damaged, the random generators' too; None where there is none.

        Raises:
            ValueError: it is of another model, or all are damaged.
        """
        ...

    def due(self) -> bool:
        """Whether it is time to save within an epoch."""
        ...

    def save(self, objective: nn.Module, optimizer: RowWiseAdam, state: FitState) -> None:
        """Keeps all that :meth:`resume` takes back, whole or not at all."""
        ...

    def save_best(self, objective: nn.Module, facts: Mapping[str, Any]) -> None:
        """Keeps its weights: the best so far."""
        ...

    def load_best(self, objective: nn.Module) -> None:
        """Takes them back."""
        ...


def write_log(path: Path, records: list[dict[str, float]]) -> None:
    """The whole log anew: after a kill it never holds an epoch twice."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    temporary.write_text("".join(json.dumps(record) + "\n" for record in records))
    os.replace(temporary, path)


class FileCheckpoints:
    """``checkpoint.safetensors`` and the one before it, ``best.safetensors`` and ``log.jsonl`` in a directory.

    Args:
        directory: made if it is not there.
        seconds: between checkpoints within an epoch.
    """

    def __init__(self, directory: Path, *, seconds: float = 60.0) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        # Left behind by a process that was killed while it wrote; safetensors writes to .tmp* first.
        for pattern in (_NEXT, *(f"{name}.tmp-*" for name in (_LAST, _NEXT, _BEST, _LOG)), ".tmp*"):
            for stale in directory.glob(pattern):
                stale.unlink()
        self._directory, self._seconds, self._saved_at = directory, seconds, time.monotonic()

    def resume(self, objective: nn.Module, optimizer: RowWiseAdam) -> FitState | None:
        """See ``Checkpoints``."""
        there = [path for path in (self._directory / _LAST, self._directory / _PREVIOUS) if path.exists()]
        for path in there:
            try:
                tensors, facts = load_tensors(path)
            except DamagedFileError:
                if path == there[-1]:
                    raise
                aside = path.with_name(f"damaged-{path.name}")
                print(f"corral: {path}: damaged; set aside as {aside.name}, the one before is taken", file=sys.stderr)
                os.replace(path, aside)
                continue
            load_training(path, tensors, objective, optimizer)
            state = FitState(**facts["state"])
            # The process may have been killed between checkpoint and log.
            write_log(self._directory / _LOG, state.records)
            return state
        return None

    def due(self) -> bool:
        """See ``Checkpoints``."""
        return time.monotonic() - self._saved_at > self._seconds

    def save(self, objective: nn.Module, optimizer: RowWiseAdam, state: FitState) -> None:
        """See ``Checkpoints``; with the log, where an epoch has ended."""
        last, new = self._directory / _LAST, self._directory / _NEXT
        save_tensors(new, training_tensors(objective, optimizer), {"state": state.__dict__})
        if last.exists():
            os.replace(last, self._directory / _PREVIOUS)
        os.replace(new, last)
        self._saved_at = time.monotonic()
        if state.records and state.batch == 0:
            write_log(self._directory / _LOG, state.records)

    def save_best(self, objective: nn.Module, facts: Mapping[str, Any]) -> None:
        """See ``Checkpoints``."""
        save_tensors(self._directory / _BEST, objective.state_dict(), facts)

    def load_best(self, objective: nn.Module) -> None:
        """See ``Checkpoints``."""
        weights, _ = load_tensors(self._directory / _BEST)
        objective.load_state_dict(weights)


def training_tensors(objective: nn.Module, optimizer: RowWiseAdam) -> dict[str, Tensor]:
    """All that a training needs to go on, but for its ``FitState``, by name."""
    tensors = {f"weights.{name}": value for name, value in objective.state_dict().items()}
    tensors |= {f"optimizer.{name}": value for name, value in optimizer.state().items()}
    tensors |= {f"random.{name}": value for name, value in random_state().items()}
    generators = cast(Objective, objective).generators()
    return tensors | {f"generator.{name}": value.get_state() for name, value in generators.items()}


def load_training(path: Path, tensors: Mapping[str, Tensor], objective: nn.Module, optimizer: RowWiseAdam) -> None:
    """Takes back what ``training_tensors`` gave.

    Raises:
        ValueError: they are of another model; ``path`` says whose.
    """

    def under(prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}

    try:
        objective.load_state_dict(under("weights."))
        optimizer.load_state(under("optimizer."))
        saved = under("generator.")
        for name, generator in cast(Objective, objective).generators().items():
            generator.set_state(saved[name])
    except (RuntimeError, KeyError, ValueError) as error:
        raise other_model(path, error) from error
    set_random_state(under("random."))


def other_model(path: Path, error: Exception) -> ValueError:
    """What to say of a checkpoint that does not fit."""
    return ValueError(f"{path}: a checkpoint of another model; give this training a directory of its own ({error})")
