"""Checkpoints: written whole or not at all, damaged and newer ones refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from corral.training import checkpoint
from corral.training.checkpoint import load_tensors, random_state, save_tensors, set_random_state

TENSORS = {
    "matrix": torch.arange(600, dtype=torch.float32).view(20, 30),
    "transposed": torch.arange(6.0).view(2, 3).T,
    "half": torch.ones(3, dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "flags": torch.tensor([True, False]),
    "nothing": torch.zeros(0, 4),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.safetensors"


def test_round_trip(path: Path) -> None:
    shared = {**TENSORS, "view": TENSORS["matrix"][3], "again": TENSORS["matrix"]}
    facts = {"best": -float("inf"), "third": 1 / 3, "list": [{"a": 1}]}
    save_tensors(path, shared, facts)
    tensors, found = load_tensors(path)
    assert tensors.keys() == shared.keys()
    assert all(torch.equal(tensors[name], shared[name]) for name in shared)
    assert all(tensors[name].dtype == shared[name].dtype for name in shared)
    assert {name: found[name] for name in facts} == facts
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_others_may_read_it_as_far_as_the_umask_lets(path: Path) -> None:
    beside = path.with_name("beside")
    beside.touch()
    save_tensors(path, TENSORS, {})
    assert path.stat().st_mode == beside.stat().st_mode


@pytest.mark.parametrize("when", ["write_tensors", "fsync", "replace"])
def test_failure_keeps_the_old_one(path: Path, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tensors(path, TENSORS, {"number": 1})

    def fail(*args: object, **keywords: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint if when == "write_tensors" else checkpoint.os, when, fail)
    with pytest.raises(OSError, match="disk full"):
        save_tensors(path, TENSORS, {"number": 2})
    monkeypatch.undo()
    assert load_tensors(path)[1]["number"] == 1
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_truncated(path: Path, share: float) -> None:
    save_tensors(path, TENSORS, {})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: damaged.*delete it and train again"):
        load_tensors(path)


@pytest.mark.parametrize("place", [0, 9, -3, -500, -2400])
def test_one_wrong_byte(path: Path, place: int) -> None:
    """In the header or in the numbers: never loaded."""
    save_tensors(path, TENSORS, {})
    content = bytearray(path.read_bytes())
    content[place] ^= 0x41
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: damaged"):
        load_tensors(path)


def test_not_a_checkpoint(path: Path) -> None:
    for metadata in (None, {"format": "pt"}, {"facts": "{"}, {"facts": "[]"}, {"facts": "{}"}):
        save_file({"x": torch.zeros(2)}, path, metadata=metadata)
        with pytest.raises(ValueError, match="damaged or not a corral checkpoint"):
            load_tensors(path)
    path.write_text("hello, this is no checkpoint at all")
    with pytest.raises(ValueError, match="damaged or not a corral checkpoint"):
        load_tensors(path)


def test_newer_format(path: Path) -> None:
    save_file({"x": torch.zeros(2)}, path, metadata={"facts": json.dumps({"format_version": 99})})
    with pytest.raises(ValueError, match="format version 99, this corral reads up to 1: update corral"):
        load_tensors(path)


def test_missing(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_tensors(path)


def test_random_state() -> None:
    state = random_state()
    first = torch.rand(5)
    set_random_state(state)
    assert torch.equal(torch.rand(5), first)


def test_random_state_of_a_machine_without_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written on a CPU, or with one device, is taken back where there are two."""
    state, given = random_state(), []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda value, device: given.append((value, device)))
    set_random_state(state)
    assert given == []
    set_random_state({**state, "cuda0": torch.ones(1)})
    assert given == [(torch.ones(1), 0)]
