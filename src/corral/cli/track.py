"""corral track: runs into MLflow or Weights & Biases."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from corral.tracking.tracked_run import Sent, TrackedRun, Tracker

SENT_FILE = "tracking.json"


class To(StrEnum):
    """The trackers."""

    MLFLOW = "mlflow"
    WANDB = "wandb"


def track(
    runs: Annotated[list[Path], typer.Argument(help="Run directories; they may still be training.")],
    to: Annotated[To, typer.Option(help="Which tracker.", show_default=False)],
    project: Annotated[str, typer.Option(help="MLflow's experiment, or W&B's project.")] = "corral",
) -> None:
    """Send runs to MLflow or Weights & Biases: settings, every epoch, test metrics, the report.

    What has been sent is noted in RUN/tracking.json: the same command again sends only what is new, so it can be
    repeated while a run trains. No training waits for a tracker, or fails with it. Where the server is, the tracker's
    own variables say: MLFLOW_TRACKING_URI; WANDB_BASE_URL, WANDB_MODE=offline.

    Examples:

        corral track runs/demo --to mlflow

        WANDB_MODE=offline corral track runs/corr-[0-4] --to wandb --project beauty
    """
    from corral.cli.run_files import run_names
    from corral.tracking.tracked_run import all_sent, newly_judged

    tracker = _tracker(to, project)
    for run, name in zip(runs, run_names(runs), strict=True):
        found = tracked(run, name)
        known = _known(run, to)
        if known is not None and not known.goes_on(found, tracker.where()):
            known = None
        if known is not None and known == all_sent(found, known.where, known.run):
            print(f"{run}: nothing new for {known.where}, run {known.run}")
            continue
        sent = tracker.send(found, known)
        _note(run, to, sent)
        epochs = sum(sent.epochs.values()) - (0 if known is None else sum(known.epochs.values()))
        judged = " and the test metrics" if newly_judged(found, known) else ""
        print(f"{run}: {epochs} epochs{judged} sent to {sent.where}, run {sent.run}")


def _tracker(to: To, project: str) -> Tracker:
    # Imported here: each takes seconds, and is an extra.
    if to is To.MLFLOW:
        from corral.tracking.mlflow_tracker import MlflowTracker

        return MlflowTracker(project)
    from corral.tracking.wandb_tracker import WandbTracker

    return WandbTracker(project)


def tracked(run: Path, name: str) -> TrackedRun:
    """What a tracker is told of the run in a directory.

    Raises:
        ValueError: there is none, or a file of it is damaged.
    """
    from corral.cli.report import PAGE, STAGES
    from corral.cli.run_files import DATA_FILE, EVALUATION, MANIFEST_FILE, SETTINGS_FILE, read_log, read_settings
    from corral.data.json_file import read_json
    from corral.evaluation.result import Evaluation
    from corral.report.number_text import plain
    from corral.report.sensitivity_panel import leaves
    from corral.tracking.tracked_run import TrackedRun

    settings = read_settings(run)
    manifest = read_json(run / MANIFEST_FILE) if (run / MANIFEST_FILE).exists() else {}
    facts = {**manifest.get("versions", {}), **manifest.get("protocol", {})}
    if (run / DATA_FILE).exists():
        facts["data_hash"] = (run / DATA_FILE).read_text(encoding="utf-8").strip()
    judged = (run / EVALUATION).exists() and bool(manifest)
    return TrackedRun(
        name=name,
        description=settings.description,
        settings={key: plain(value) for key, value in leaves(settings.model_dump(mode="json")).items()},
        facts={f"corral.{key}": plain(value) for key, value in facts.items()},
        logs={stage: read_log(run / stage) for stage in STAGES if (run / stage).is_dir()},
        metrics=Evaluation.open(run / EVALUATION).metrics if judged else {},
        files=[path for path in (run / file for file in (SETTINGS_FILE, MANIFEST_FILE, PAGE)) if path.exists()],
    )


def _known(run: Path, to: To) -> Sent | None:
    """What the tracker has of a run, as noted in its directory."""
    from corral.data.json_file import read_json
    from corral.tracking.tracked_run import Sent

    path = run / SENT_FILE
    noted = read_json(path).get(to.value) if path.exists() else None
    if noted is None:
        return None
    try:
        return Sent(**noted)
    except TypeError as error:
        raise ValueError(f"{path}: is damaged ({error}); remove it, and the run is sent anew") from error


def _note(run: Path, to: To, sent: Sent) -> None:
    import json
    from dataclasses import asdict

    from corral.cli.run_files import write_text
    from corral.data.json_file import read_json

    path = run / SENT_FILE
    noted = read_json(path) if path.exists() else {}
    write_text(path, json.dumps({**noted, to.value: asdict(sent)}, indent=1) + "\n")
