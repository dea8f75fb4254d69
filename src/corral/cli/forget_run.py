"""forget_in_run: a finished run's bundle and judgement made again from data without a user, its weights kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from corral.cli.experiment import Experiment
from corral.cli.run import train_run
from corral.cli.run_files import (
    BUNDLE,
    CONTINUATION_FILE,
    MANIFEST_FILE,
    SETTINGS_FILE,
    check_finished,
    only_trainer,
    read_settings,
    write_text,
)
from corral.data.atomic_directory import atomic_directory, carry_over
from corral.data.dataset import Dataset
from corral.data.json_file import read_json
from corral.data.vocabulary import FIRST_ROW, UNKNOWN, Vocabulary
from corral.settings import Settings, dump_settings, watchable

# Directories that training makes.
_OF_A_RUN = frozenset({"bundle", "evaluation", "retriever", "ranker", "together"})


def knows_user(run: Path, user: int | str) -> bool:
    """Whether the bundle of a run holds a user's id.

    Raises:
        ValueError: the run is not finished, or its ids are of another type.
    """
    check_finished(run, BUNDLE, MANIFEST_FILE)
    return int(Vocabulary.open(run / BUNDLE / "users.arrow").rows([user])[0]) != UNKNOWN


def items_not_of(run: Path, dataset: Dataset) -> list[int | str]:
    """Items of a run's bundle that its data set lacks: added later (``add_items``)."""
    items = Vocabulary.open(run / BUNDLE / "items.arrow")
    return items.external(np.flatnonzero(dataset.items.rows(items.ids) == UNKNOWN) + FIRST_ROW)


def forget_in_run(run: Path, dataset: Path, *, quiet: bool = False) -> None:
    """Replaces a run by one of the same weights on the data set without the user, in one step.

    Rows of the user are left out of every table; what is counted or chosen (histories, co-visitation, keys,
    neighbours, exposures, popularity) is made again from the data; correction, mixture and calibration are fitted, and
    the run is judged, again. Checkpoints, keys and reports of the old run are deleted with it. Times of the split are
    from now on those it was trained by.

    Args:
        run: its directory.
        dataset: the data set it was trained on, which has forgotten the user.
        quiet: no progress bars.

    Raises:
        ValueError: the run is on other data, of a kind that cannot be continued, or being trained; it is then left as
            it is.
    """
    settings = read_settings(run)
    if settings.data.path is None or settings.data.path.resolve() != dataset.resolve():
        raise ValueError(f"{run}: was trained on {settings.data.path or settings.data.name}, not on {dataset}")
    protocol = read_json(run / MANIFEST_FILE)["protocol"]
    kept = _with_times_of_split(settings, protocol)
    stages = {name: getattr(kept, name).model_copy(update={"epochs": 0}) for name in watchable(kept)}
    # From the dump, so that what cannot be continued is refused as settings are.
    asked = Settings.model_validate(
        kept.model_copy(update={**stages, "continues": run.resolve()}).model_dump(mode="json")
    )
    with only_trainer(run):
        try:
            with atomic_directory(run, overwrite=True, marker=SETTINGS_FILE) as files:
                train_run(Experiment.start(asked, files.directory, quiet=quiet))
                for log in run.glob("*/log.jsonl"):
                    target = files.directory / log.relative_to(run)
                    target.parent.mkdir(exist_ok=True)
                    shutil.copyfile(log, target)
                carry_over(run, files.directory, not_of_a_run(run))
                (files.directory / CONTINUATION_FILE).unlink()
                write_text(files.directory / SETTINGS_FILE, dump_settings(kept))
                os.sync()
        except ValueError as error:
            raise ValueError(f"{run}: cannot forget: {error}; delete the run and train anew") from error


def not_of_a_run(run: Path) -> Iterator[Path]:
    """What lies in a run's directory without being of the run: its data set, a server's events."""
    for path in run.rglob("*"):
        top = path.relative_to(run).parts[0]
        if ".sqlite" in path.name or ((run / top).is_dir() and top not in _OF_A_RUN):
            yield path


def _with_times_of_split(settings: Settings, protocol: dict[str, object]) -> Settings:
    """The settings with the split's times as they were: fewer events would move cuts by fractions."""
    if settings.split.rule != "time-cut":
        return settings
    times = {name: int(str(protocol[name])) for name in ("valid_from", "test_from")}
    return settings.model_copy(update={"split": settings.split.model_copy(update=times)})
