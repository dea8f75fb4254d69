"""WandbTracker: runs in Weights & Biases."""

from __future__ import annotations

import secrets

from corral.tracking.tracked_run import Sent, TrackedRun, all_sent, judged_numbers, new_numbers, newly_judged


class WandbTracker:
    """Sends runs to the server that WANDB_BASE_URL names; with WANDB_MODE=offline into ./wandb, for ``wandb sync``.

    Args:
        project: made where there is none of this name.

    Raises:
        ModuleNotFoundError: wandb is not installed.
    """

    def __init__(self, project: str) -> None:
        import wandb

        self._project = project
        settings = wandb.setup().settings
        self._server, self._offline = str(settings.base_url), settings.mode == "offline"

    def where(self) -> str:
        """The address and the project."""
        return f"{self._server} {self._project}" + (" (offline)" if self._offline else "")

    def send(self, run: TrackedRun, known: Sent | None) -> Sent:
        """See :meth:`~corral.tracking.tracked_run.Tracker.send`."""
        import wandb

        name = secrets.token_hex(4) if known is None else known.run
        try:
            with wandb.init(
                project=self._project,
                id=name,
                name=run.name,
                notes=run.description,
                config={**run.settings, **run.facts},
                resume=None if known is None or self._offline else "must",
                settings=wandb.Settings(console="off", silent=True),
            ) as sent:
                for stage in run.logs:
                    sent.define_metric(f"{stage}/epoch")
                    sent.define_metric(f"{stage}/*", step_metric=f"{stage}/epoch")
                for stage, epoch, numbers in new_numbers(run, known):
                    sent.log({f"{stage}/epoch": epoch, **numbers})
                sent.summary.update(judged_numbers(run, known))
                if newly_judged(run, known):
                    files = wandb.Artifact(f"run-{name}", "run")
                    for path in run.files:
                        files.add_file(str(path))
                    sent.log_artifact(files)
        except wandb.errors.Error as error:
            first = str(error).splitlines()[0]
            raise ValueError(f"W&B at {self._server}: {first} (wandb login, or WANDB_MODE=offline)") from error
        return all_sent(run, self.where(), name)
