"""The files of a run: their names, whose run a directory holds, and the manifest; each written whole or not at all."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corral import __version__
from corral.data.json_file import read_json, read_json_line
from corral.data.only_holder import only_holder
from corral.settings import ScaleSettings, Settings, dump_settings, load_settings
from corral.strict_yaml import read_yaml_text

SETTINGS_FILE, DATA_FILE, MANIFEST_FILE = "settings.yaml", "data_hash.txt", "manifest.json"
BUNDLE, EVALUATION, CORRECTION_FILE, EPOCHS_FILE = "bundle", "evaluation", "correction.json", "epochs.json"
CONTINUATION_FILE = "continuation.json"


def write_text(path: Path, text: str) -> None:
    """Writes a small file whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _write_first(path: Path, text: str) -> None:
    """The same, unless somebody was there before: what is there stays."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_settings(directory: Path) -> Settings:
    """The settings of the run in a directory.

    Raises:
        ValueError: there is none, or its settings are damaged.
    """
    check_run(directory)
    path = directory / SETTINGS_FILE
    return load_settings(read_yaml_text(path), str(path))


def check_run(directory: Path) -> None:
    """Whether a directory holds a run.

    Raises:
        ValueError: it does not.
    """
    if not (directory / SETTINGS_FILE).is_file():
        raise ValueError(f"{directory}: no run (no {SETTINGS_FILE}); make one with corral train")


def run_names(runs: Sequence[Path]) -> list[str]:
    """The folders' names; with the folders above where two are the same.

    Raises:
        ValueError: a run is given twice.
    """
    names = [run.resolve().name for run in runs]
    if len(set(names)) == len(names):
        return names
    if len({run.resolve() for run in runs}) < len(runs):
        raise ValueError(f"{', '.join(map(str, runs))}: the same run twice")
    return [str(run) for run in runs]


def check_finished(run: Path, *parts: str) -> None:
    """Whether a run has what its end leaves behind.

    Args:
        run: its directory.
        parts: files or folders in it that are needed.

    Raises:
        ValueError: it is no run, or a part is not there.
    """
    check_run(run)
    for part in parts:
        if not (run / part).exists():
            raise ValueError(f"{run}: the run is not finished (no {part}); give its corral train command again")


def read_log(folder: Path) -> list[dict[str, float]]:
    """The records of a phase, one an epoch; none before its first.

    Raises:
        ValueError: a line is damaged.
    """
    path = folder / "log.jsonl"
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return [read_json_line(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def check_settings(directory: Path, settings: Settings) -> None:
    """Whether a run of these settings may start, or go on, in ``directory``; before any data is read.

    Raises:
        ValueError: the directory holds a run with other settings.
    """
    if (directory / SETTINGS_FILE).exists() and _unscaled(read_settings(directory)) != _unscaled(settings):
        raise ValueError(f"{directory}: holds a run with other settings; choose another directory with --run")


def _unscaled(settings: Settings) -> Settings:
    """Without the number of workers, which changes no result."""
    return settings.model_copy(update={"scale": ScaleSettings()})


def begin(directory: Path, settings: Settings, data_name: str, data_hash: str) -> None:
    """Notes settings and data of a run in its directory; of a run that goes on, checks that they are its own.

    Raises:
        ValueError: the directory holds a run with other settings, or on other data.
    """
    check_settings(directory, settings)
    trained_on = directory / DATA_FILE
    if trained_on.exists() and trained_on.read_text(encoding="utf-8").strip() != data_hash:
        raise ValueError(
            f"{directory}: was trained on other data than {data_name} holds now (events were added, or it was made "
            "anew): train another run on them, with --run or --from; what was trained still serves, and its report "
            "is the one that was written before"
        )
    if not (directory / SETTINGS_FILE).exists():
        directory.mkdir(parents=True, exist_ok=True)
        _write_first(trained_on, data_hash + "\n")
        # Last: with it the directory holds a run.
        _write_first(directory / SETTINGS_FILE, dump_settings(settings))
        # Of two that began it in the same moment, one may be of other settings or data.
        begin(directory, settings, data_name, data_hash)


def only_trainer(directory: Path) -> AbstractContextManager[None]:
    """Two trainings of a run would write over each other's files: the second one is refused, readers are not."""
    return only_holder(
        directory / SETTINGS_FILE,
        f"{directory}: is being trained by another process; wait for its end, or choose another directory with --run",
    )


def check_free(directory: Path) -> None:
    """Whether nobody trains the run in a directory, if there is one.

    Raises:
        ValueError: somebody does.
    """
    with only_trainer(directory):
        pass


def versions() -> dict[str, str]:
    """What produced a result."""
    return {
        "corral": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }


def write_manifest(directory: Path, facts: Mapping[str, Any]) -> None:
    """Adds facts, the versions and the time to a run's manifest; a run that has one is finished.

    Raises:
        ValueError: it has a damaged one.
    """
    path = directory / MANIFEST_FILE
    known = read_json(path) if path.exists() else {}
    known |= {"versions": versions(), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **facts}
    write_text(path, json.dumps(known, indent=1, default=str) + "\n")
