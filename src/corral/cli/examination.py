"""What `corral doctor` looks at: libraries, processor, memory, accelerators, folders; one finding a line."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

from corral import __version__
from corral.cli.processor_flags import processor_flags

GIB = 1 << 30
# Distribution -> the name it is imported under. What corral cannot do without ...
CORE = {
    "torch": "torch",
    "numpy": "numpy",
    "polars": "polars",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "pyyaml": "yaml",
    "typer": "typer",
    "rich": "rich",
    "safetensors": "safetensors",
    "scikit-learn": "sklearn",
    "scipy": "scipy",
}
# ... and what each extra adds.
EXTRAS = {
    "ann": {"faiss-cpu": "faiss"},
    "serve": {"fastapi": "fastapi", "uvicorn": "uvicorn", "prometheus-client": "prometheus_client"},
    "redis": {"redis": "redis"},
    "report": {"altair": "altair", "vl-convert-python": "vl_convert", "tensorboard": "tensorboard"},
    "tune": {"optuna": "optuna"},
    "mlflow": {"mlflow-skinny": "mlflow"},
    "wandb": {"wandb": "wandb"},
    "scale": {"ray": "ray"},
    "export": {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"},
}
# Processor features that change how fast torch and faiss are, by their name in /proc/cpuinfo.
CPU_FEATURES = ("avx2", "avx512f", "avx512_vpopcntdq", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")


class State(StrEnum):
    """How a finding stands; a warning is about something that works, but slower or less than it could."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"  # an optional part
    BROKEN = "broken"  # corral cannot run


@dataclass(frozen=True)
class Finding:
    """One thing looked at; ``mend`` says what to do where ``state`` is not OK."""

    section: str
    name: str
    value: str
    state: State = State.OK
    mend: str = ""


def examine(run_dir: Path) -> Iterator[Finding]:
    """All findings, section by section; imports every core library, which is the test that they work."""
    yield Finding("versions", "corral", f"{__version__} ({Path(__file__).parents[1]})")
    yield Finding("versions", "python", f"{platform.python_version()} ({sys.executable})")
    yield Finding("versions", "platform", platform.platform())
    for distribution, module in CORE.items():
        yield _core(distribution, module)
    for extra, parts in EXTRAS.items():
        yield _extra(extra, parts)
    yield from _processor()
    yield from _threads()
    yield from _memory()
    yield from _accelerators()
    yield from _folders(run_dir)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "version unknown"  # e.g. the same library under another distribution's name


def _core(distribution: str, module: str) -> Finding:
    mend = "Install corral again in this environment: pip install --force-reinstall corral"
    try:
        import_module(module)
    except Exception as error:  # a damaged library can fail with anything
        return Finding("versions", distribution, f"{type(error).__name__}: {error}", State.BROKEN, mend)
    version, lowest = _version(distribution), _lower_bounds().get(distribution)
    if lowest and _numbers(version) and _numbers(version) < _numbers(lowest):
        mend = f"pip install '{distribution}>={lowest}'"
        return Finding("versions", distribution, f"{version}, too old", State.BROKEN, mend)
    return Finding("versions", distribution, version)


def _lower_bounds() -> dict[str, str]:
    """Distribution -> lowest version, from corral's own metadata; empty where corral is not installed."""
    try:
        requirements = metadata.requires("corral") or []
    except metadata.PackageNotFoundError:
        return {}
    found = (re.match(r"([\w.-]+)>=([\d.]+)$", requirement) for requirement in requirements)
    return {match[1].lower(): match[2] for match in found if match}


def _numbers(version: str) -> list[int]:
    """The leading numbers: "2.13.0+cpu" -> [2, 13, 0]."""
    match = re.match(r"\d+(\.\d+)*", version)
    return [int(number) for number in match[0].split(".")] if match else []


def _extra(extra: str, parts: dict[str, str]) -> Finding:
    missing = [distribution for distribution, module in parts.items() if find_spec(module) is None]
    if missing:
        mend = f"pip install 'corral[{extra}]'"
        return Finding("optional parts", extra, f"without {', '.join(missing)}", State.MISSING, mend)
    return Finding("optional parts", extra, ", ".join(f"{name} {_version(name)}" for name in parts))


def _processor() -> Iterator[Finding]:
    flags = processor_flags()
    present = [feature for feature in CPU_FEATURES if feature in flags]
    yield Finding("machine", "processor", f"{platform.machine()} {' '.join(present)}".strip())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> Iterator[Finding]:
    cores = _cores()
    yield Finding("machine", "cores", str(cores))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        if name in os.environ:
            yield Finding("machine", name, os.environ[name])
    if os.environ.get("OPENBLAS_CORETYPE"):
        value, mend = os.environ["OPENBLAS_CORETYPE"], "Where numpy's speed matters: unset OPENBLAS_CORETYPE"
        yield Finding("machine", "OPENBLAS_CORETYPE", f"{value}: numpy may be slow", State.WARNING, mend)
    if (torch := sys.modules.get("torch")) is None:
        return
    threads = torch.get_num_threads()
    value = f"{threads} within an operation, {torch.get_num_interop_threads()} between operations"
    if threads > cores:
        mend = f"More threads than cores slow torch down: export OMP_NUM_THREADS={cores}"
        yield Finding("machine", "torch threads", value, State.WARNING, mend)
    else:
        yield Finding("machine", "torch threads", value)


def _memory() -> Iterator[Finding]:
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    page = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * page
    free = os.sysconf("SC_AVPHYS_PAGES") * page if "SC_AVPHYS_PAGES" in os.sysconf_names else total
    limit = Path("/sys/fs/cgroup/memory.max")  # a container's own bound
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    meminfo = Path("/proc/meminfo")  # counts the caches that can be given up, which the pages above do not
    if meminfo.exists() and (match := re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)):
        free = min(int(match[1]) * 1024, total)
    value = f"{total / GIB:.1f} GiB, {free / GIB:.1f} GiB available"
    if free < GIB:
        mend = "corral demo needs about 1 GiB: close something, or use a bigger machine"
        yield Finding("machine", "memory", value, State.WARNING, mend)
    else:
        yield Finding("machine", "memory", value)


def _accelerators() -> Iterator[Finding]:
    if (torch := sys.modules.get("torch")) is None:
        return
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        yield Finding("machine", "CUDA", f"{torch.version.cuda}: {', '.join(names)}")
    elif _nvidia_gpu():
        mend = "Install the CUDA build of torch (CONTRIBUTING.md, Set-up) and check the driver"
        yield Finding("machine", "CUDA", "an NVIDIA GPU that torch cannot use", State.WARNING, mend)
    else:
        yield Finding("machine", "CUDA", "no GPU")
    if torch.backends.mps.is_available():
        yield Finding("machine", "MPS", "available")


def _nvidia_gpu() -> bool:
    if (command := shutil.which("nvidia-smi")) is None:
        return False
    return subprocess.run([command, "-L"], capture_output=True, timeout=10, check=False).returncode == 0


def _folders(run_dir: Path) -> Iterator[Finding]:
    data = os.environ.get("CORRAL_DATA")
    if not data:
        yield Finding("folders", "CORRAL_DATA", "not set: only the data shipped with corral")
    elif not Path(data).is_dir():
        mend = "Let CORRAL_DATA name the folder of your public data sets, or unset it"
        yield Finding("folders", "CORRAL_DATA", f"{data}: no such folder", State.WARNING, mend)
    else:
        names = sorted(entry.name for entry in Path(data).iterdir() if entry.is_dir())
        yield Finding("folders", "CORRAL_DATA", f"{data}: {', '.join(names) or 'empty'}")
    existing = next(folder for folder in (run_dir.absolute(), *run_dir.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            space = shutil.disk_usage(existing).free
    except OSError as error:
        mend = "Work in a folder you may write to, or name one: --run-dir"
        yield Finding("folders", "runs", f"{run_dir}: {error.strerror}", State.BROKEN, mend)
        return
    value, short = f"{run_dir}, {space / GIB:.1f} GiB free", space < GIB
    mend = "Checkpoints and reports need room: free some" if short else ""
    yield Finding("folders", "runs", value, State.WARNING if short else State.OK, mend)
