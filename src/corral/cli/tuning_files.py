"""What a study leaves behind: all trials as JSON, the best recipe, and the same as a table in plain text"""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from corral.cli.run_files import versions, write_text
from corral.cli.study import Study
from corral.report.number_text import decimal, seconds
from corral.settings import dump_settings, last_training

TUNING, BEST, SUMMARY = "tuning.json", "best.yaml", "summary.txt"


def write_tuning(study: Study, recipe: str, given: Sequence[str]) -> dict[str, Any]:
    """Writes the three files, each whole or not at all.

    Args:
        study: as it stands, finished or not.
        recipe: as the user named it.
        given: the user's own overrides of it.

    Returns:
        What ``tuning.json`` holds; ``best`` is None before the first finished trial.
    """
    best = study.best()
    training, metric = last_training(study.settings)
    found = {
        "recipe": recipe,
        "overrides": list(given),
        "metric": f"{metric} on validation, the best epoch of the {training}'s training",
        "best": None if best is None else best.number,
        "command": "" if best is None else _command(study, recipe, (*given, *study.overrides(best)), best.number),
        "trials": [
            {
                "number": trial.number,
                "state": trial_state(trial),
                "value": trial.value,
                "overrides": list(study.overrides(trial)),
                "epochs": {str(epoch): value for epoch, value in sorted(trial.intermediate_values.items())},
                **trial.user_attrs,  # seconds; error, where there was one
            }
            for trial in study.journal.get_trials(deepcopy=False)
        ],
        "search": study.journal.user_attrs["search"],
        "settings": study.settings.model_dump(mode="json"),
        "data_hash": study.data_hash,
        "versions": {**versions(), "optuna": optuna.__version__},
    }
    if best is not None:
        write_text(study.directory / BEST, dump_settings(study.trial_settings(best)))
    write_text(study.directory / TUNING, json.dumps(found, indent=1) + "\n")
    plain = Console(file=io.StringIO(), width=120)
    show_tuning(found, plain)
    write_text(study.directory / SUMMARY, plain.file.getvalue())  # type: ignore[attr-defined]
    return found


def trial_state(trial: FrozenTrial) -> str:
    """How a trial stands: complete, pruned, failed, running or waiting."""
    return "failed" if "error" in trial.user_attrs else trial.state.name.lower()


def _command(study: Study, recipe: str, overrides: Sequence[str], number: int) -> str:
    """What judges the best trial on test: its run is there already, so nothing is trained again."""
    return shlex.join(["corral", "train", recipe, *overrides, "--run", str(study.place(number))])


def show_tuning(found: dict[str, Any], console: Console) -> None:
    """The trials, best first, and what to do with the best."""
    table = Table(title=escape(found["metric"]), title_justify="left")
    for name in ("trial", "state", "value", "time"):
        table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    table.add_column("changes")
    order = ("complete", "pruned", "running", "waiting", "failed")
    for trial in sorted(found["trials"], key=lambda one: (order.index(one["state"]), -(one["value"] or 0.0))):
        changes = (
            trial.get("error") or " ".join(trial["overrides"]) or ("-" if trial["number"] else "the recipe as it is")
        )
        cells = (str(trial["number"]), trial["state"], decimal(trial["value"]), seconds(trial.get("seconds")))
        table.add_row(*cells, escape(changes), style="bold" if trial["number"] == found["best"] else None)
    console.print(table)
    if found["best"] is None:
        console.print("No trial is finished yet: give the same command again, with more --minutes.")
        return
    console.print(f"The best is trial {found['best']}. To judge it on the test part, once:")
    console.print(found["command"], markup=False, highlight=False, soft_wrap=True)
