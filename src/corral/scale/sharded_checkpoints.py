"""ShardedCheckpoints: a training's checkpoints, each worker writing its rows, read by any number of workers."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as distributed_checkpoint
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from corral.scale.sharded_adam import ShardedAdam
from corral.scale.sharded_embedding import ShardedEmbedding
from corral.scale.workers import Workers
from corral.training.checkpoints import load_training, other_model, training_tensors, write_log
from corral.training.fit_state import FitState
from corral.training.optimizers import RowWiseAdam

FORMAT_VERSION = 1
_FACTS = "checkpoint.json"
_KEPT = {"checkpoint": 2, "best": 1}


class ShardedCheckpoints:
    """``checkpoint-N`` (the two latest) and ``best-N`` directories, and ``log.jsonl``; see ``training.Checkpoints``.

    A directory is written by torch.distributed.checkpoint as safetensors files, one a worker, under a hidden name; then
    worker 0 adds ``checkpoint.json`` with the state of the training and the size and CRC-32 of every file, and renames
    it. One that is not as its ``checkpoint.json`` says is never loaded: it is set aside, and the one before it taken.

    Args:
        directory: that all workers see.
        workers: who train.
        seconds: between checkpoints within an epoch, by the clock of worker 0.
    """

    def __init__(self, directory: Path, workers: Workers, *, seconds: float = 60.0) -> None:
        self._directory, self._workers, self._seconds = directory, workers, seconds
        self._mesh = init_device_mesh(workers.device.type, (workers.size,))
        if workers.first:
            directory.mkdir(parents=True, exist_ok=True)
            for stale in directory.glob(".*.writing"):  # of workers that were killed while they wrote
                shutil.rmtree(stale, ignore_errors=True)
        workers.wait()
        self._saved_at = time.monotonic()

    def resume(self, objective: nn.Module, optimizer: RowWiseAdam) -> FitState | None:
        """Goes on from the latest sound checkpoint, of whatever number of workers."""
        path = self._latest("checkpoint")
        if path is None:
            return None
        assert isinstance(optimizer, ShardedAdam)
        try:
            tensors = self._read(path, _cut(objective, optimizer))
        except (RuntimeError, KeyError, ValueError) as error:
            raise other_model(path, error) from error
        load_training(path, tensors, objective, optimizer)
        state = FitState(**json.loads((path / _FACTS).read_text())["state"])
        if self._workers.first:
            write_log(self._directory / "log.jsonl", state.records)
        return state

    def due(self) -> bool:
        """By the clock of worker 0."""
        return bool(self._workers.numbers(int(time.monotonic() - self._saved_at > self._seconds))[0])

    def save(self, objective: nn.Module, optimizer: RowWiseAdam, state: FitState) -> None:
        """Writes a checkpoint; of the older ones the latest stays."""
        assert isinstance(optimizer, ShardedAdam)
        tensors = training_tensors(objective, optimizer)
        self._write("checkpoint", tensors, _cut(objective, optimizer), {"state": state.__dict__})
        self._saved_at = time.monotonic()
        if self._workers.first and state.records and state.batch == 0:
            write_log(self._directory / "log.jsonl", state.records)

    def save_best(self, objective: nn.Module, facts: Mapping[str, Any]) -> None:
        """Writes its weights; the ones before go when these are there."""
        weights = {f"weights.{name}": value for name, value in objective.state_dict().items()}
        self._write("best", weights, _table_rows(objective), facts)

    def load_best(self, objective: nn.Module) -> None:
        """Takes the best weights back."""
        path = self._latest("best")
        if path is None:
            raise ValueError(f"{self._directory}: the best weights are gone; delete this directory and train again")
        tensors = self._read(path, _table_rows(objective))
        objective.load_state_dict({name.removeprefix("weights."): value for name, value in tensors.items()})

    def _write(
        self, kind: str, tensors: Mapping[str, Tensor], rows: Mapping[str, int], facts: Mapping[str, Any]
    ) -> None:
        before = self._names(kind)
        number = int(before[-1].rsplit("-", 1)[1]) + 1 if before else 0
        path = self._directory / f"{kind}-{self._workers.numbers(number)[0]:06d}"
        temporary = path.with_name(f".{path.name}.writing")
        if self._workers.first:
            temporary.mkdir()
        self._workers.wait()
        apart = _apart(tensors)
        whole = {name: self._placed(own, rows[name]) if name in rows else own for name, own in apart.items()}
        try:
            distributed_checkpoint.save(
                whole, storage_writer=HuggingFaceStorageWriter(str(temporary), save_distributed=True)
            )
        except CheckpointException as error:  # not an Exception: it would pass all handlers
            causes = "; ".join(str(failure[0]) for failure in error.failures.values())
            raise OSError(f"{temporary}: the checkpoint could not be written: {causes}") from error
        if self._workers.first:
            files = {file.name: [file.stat().st_size, _checksum(file)] for file in sorted(temporary.iterdir())}
            with open(temporary / _FACTS, "w", encoding="utf-8") as file:
                file.write(json.dumps({"format_version": FORMAT_VERSION, "files": files, **facts}))
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
            for old in self._names(kind)[: -_KEPT[kind]]:
                shutil.rmtree(self._directory / old)
        self._workers.wait()

    def _placed(self, own: Tensor, rows: int) -> DTensor:
        """This worker's block of a table, as a part of the whole."""
        shape = torch.Size((rows, *own.shape[1:]))
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(own, self._mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)

    def _read(self, path: Path, rows: Mapping[str, int]) -> dict[str, Tensor]:
        """All tensors of a checkpoint, of those that are cut this worker's blocks."""
        reader, wanted = HuggingFaceStorageReader(str(path)), {}
        for name, known in reader.read_metadata().state_dict_metadata.items():
            assert isinstance(known, TensorStorageMetadata)
            shape, dtype = list(known.size), known.properties.dtype
            if name not in rows:
                wanted[name] = torch.zeros(shape, dtype=dtype)
                continue
            first, stop = self._workers.blocks(rows[name])[self._workers.rank]
            own = torch.zeros(stop - first, *shape[1:], dtype=dtype, device=self._workers.device)
            wanted[name] = self._placed(own, rows[name])
        distributed_checkpoint.load(wanted, storage_reader=reader)
        return {name: value.to_local() if isinstance(value, DTensor) else value for name, value in wanted.items()}

    def _names(self, kind: str) -> list[str]:
        return sorted(path.name for path in self._directory.glob(f"{kind}-*"))

    def _latest(self, kind: str) -> Path | None:
        """The latest sound directory, None where there is none; worker 0 looks, and sets damaged ones aside."""
        sound = -1
        if self._workers.first:
            for name in reversed(self._names(kind)):
                path = self._directory / name
                fault = _fault(path)
                if fault is None:
                    sound = int(name.rsplit("-", 1)[1])
                    break
                print(f"corral: {path}: {fault}; set aside as damaged-{name}", file=sys.stderr)
                os.rename(path, self._directory / f"damaged-{name}")
        sound = self._workers.numbers(sound)[0]
        return self._directory / f"{kind}-{sound:06d}" if sound >= 0 else None


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, copies of those that share the memory of one before: safetensors refuses it."""
    found, seen = {}, set()
    for name, value in tensors.items():
        found[name] = value.detach().clone() if value.data_ptr() in seen else value.detach()
        seen.add(value.data_ptr())
    return found


def _table_rows(objective: nn.Module) -> dict[str, int]:
    """Weights that are cut by row -> rows of the whole."""
    modules = objective.named_modules()
    return {f"weights.{name}.weight": m.num_embeddings for name, m in modules if isinstance(m, ShardedEmbedding)}


def _cut(objective: nn.Module, optimizer: ShardedAdam) -> dict[str, int]:
    """All tensors of a checkpoint that are cut by row -> rows of the whole."""
    states = optimizer.sharded_states()
    return _table_rows(objective) | {f"optimizer.{name}": rows for name, rows in states.items()}


def _checksum(path: Path) -> int:
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return crc


def _fault(path: Path) -> str | None:
    """What is wrong with a directory; None if it is as it was written.

    Raises:
        ValueError: it is of a newer format.
    """
    try:
        facts = json.loads((path / _FACTS).read_text(encoding="utf-8"))
        version, files = int(facts["format_version"]), dict(facts["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{_FACTS} is damaged or gone ({error})"
    if version > FORMAT_VERSION:
        raise ValueError(f"{path}: format version {version}, this corral reads up to {FORMAT_VERSION}: update corral")
    for name, (size, checksum) in files.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size or _checksum(file) != checksum:
            return f"{name} is damaged or gone"
    return None
