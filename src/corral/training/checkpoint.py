"""Checkpoints: one safetensors file with tensors and JSON, replaced whole or not at all."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from corral.data.tensor_file import write_tensors

FORMAT_VERSION = 1


class DamagedFileError(ValueError):
    """A file is not as it was written."""


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of all names and contents."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, zlib.crc32(name.encode(), crc))
    return crc


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Writes tensors and JSON-able facts to a temporary name, then renames it onto ``path``.

    Raises:
        OSError: the disk is full, or cannot be written.
    """
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    # safetensors refuses shared memory; clones are cheap beside training.
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    whole = {"format_version": FORMAT_VERSION, "checksum": _checksum(copies), **facts}
    try:
        write_tensors(temporary, copies, {"facts": json.dumps(whole)})
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except SafetensorError as error:
        raise OSError(f"{path}: could not be written ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts of a file written by :func:`save_tensors`.

    Raises:
        DamagedFileError: it is not as it was written.
        ValueError: it is of a newer format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
            version = int(facts["format_version"])
            if version <= FORMAT_VERSION:  # a newer one may hold what cannot be read here
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
                damaged = facts.pop("checksum", None) not in (None, _checksum(tensors))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        message = f"{path}: damaged or not a corral checkpoint ({error}); delete it and train again"
        raise DamagedFileError(message) from error
    if version > FORMAT_VERSION:
        raise ValueError(f"{path}: format version {version}, this corral reads up to {FORMAT_VERSION}: update corral")
    if damaged:
        raise DamagedFileError(f"{path}: damaged (wrong checksum); delete it and train again")
    return tensors, facts


def random_state() -> dict[str, Tensor]:
    """State of torch's own generators (dropout draws from them)."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state |= {f"cuda{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Takes back what :func:`random_state` gave."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available():
        for device in range(torch.cuda.device_count()):
            if f"cuda{device}" in state:  # written on a machine with fewer devices, or none: they keep their seed
                torch.cuda.set_rng_state(state[f"cuda{device}"], device)
