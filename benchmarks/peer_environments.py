"""Peers' own environments: made from pinned requirements, and commands run in them on one thread."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from results import ROOT

from corral.cli.run_files import write_text

ENVS = Path(os.environ.get("CORRAL_PEER_ENVS", ROOT / "runs" / "peers" / "envs"))
SCRIPTS = ROOT / "benchmarks" / "peers"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
MEMORY = """
import importlib.util
import peer_run
if importlib.util.find_spec("torch"):
    import torch
print(peer_run.memory_peak())
"""


def environment(peer: str) -> Path:
    """The Python of a peer's own environment, made if it is not there or its pins have changed; ours for ours.

    Raises:
        RuntimeError: pip fails; with its last lines.
    """
    if peer == "corral":
        return Path(sys.executable)
    folder, pins = ENVS / peer, (SCRIPTS / f"{peer}.txt").read_text(encoding="utf-8")
    python, ready = folder / "bin" / "python", folder / "pins.txt"
    if ready.exists() and ready.read_text(encoding="utf-8") == pins:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    call([sys.executable, "-m", "venv", str(folder)])
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # The plain wheel of torch carries CUDA, gigabytes of it: the CPU build or nothing (see CONTRIBUTING.md).
    for line in pins.splitlines():
        if line.startswith("torch=="):
            call([*pip, f"{line}+cpu"])
    call([*pip, "-r", str(SCRIPTS / f"{peer}.txt")])
    if peer == "fuxictr":
        add_model_zoo(python, next(line for line in pins.splitlines() if line.startswith("fuxictr==")))
    write_text(ready, pins)
    return python


def add_model_zoo(python: Path, requirement: str) -> None:
    """FuxiCTR's models are in its source package alone: ``model_zoo`` is put beside the installed library."""
    where = call([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    with tempfile.TemporaryDirectory() as folder:
        options = ["--no-deps", "--no-binary", "fuxictr", "--quiet", "-d", folder]
        call([str(python), "-m", "pip", "download", *options, requirement])
        with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        shutil.copytree(next(Path(folder).glob("fuxictr-*/model_zoo")), Path(where) / "model_zoo", dirs_exist_ok=True)


def call(command: Sequence[str], log: Path | None = None) -> str:
    """Runs a command on one thread and returns what it printed.

    Args:
        command: and its arguments.
        log: where what it printed goes too; the command runs in its folder.

    Raises:
        RuntimeError: it fails; with its last line.
    """
    # Peers see the scripts; ours sees corral and the other benchmarks too.
    paths = [SCRIPTS, ROOT / "benchmarks", ROOT / "src"][: 3 if command[0] == sys.executable else 1]
    known = {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(map(str, paths)), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        command,
        env=known,
        cwd=None if log is None else log.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if log is not None:
        write_text(log, done.stdout)
    if done.returncode:
        last = (done.stdout.strip().splitlines() or ["no output"])[-1]
        raise RuntimeError(last[:300])
    return done.stdout


def memory_of_import(python: Path) -> int:
    """Bytes that ``import torch`` takes there; ``import numpy`` where there is no torch."""
    return int(call([str(python), "-c", MEMORY]))
