"""MlflowTracker: runs in MLflow."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from corral.tracking.tracked_run import Sent, TrackedRun, all_sent, judged_numbers, new_numbers, newly_judged

if TYPE_CHECKING:
    from mlflow import MlflowClient

# What MLflow takes in one request, and the longest value of a setting.
_NUMBERS, _SETTINGS, _LENGTH = 1000, 100, 6000


class MlflowTracker:
    """Sends runs to the server (or database) that MLFLOW_TRACKING_URI names.

    Args:
        project: MLflow's experiment; made where there is none of this name.

    Raises:
        ModuleNotFoundError: MLflow is not installed.
    """

    def __init__(self, project: str) -> None:
        import mlflow

        self._project = project
        self._uri = _without_password(str(mlflow.get_tracking_uri()))

    def where(self) -> str:
        """The address and the experiment."""
        return f"{self._uri} {self._project}"

    def send(self, run: TrackedRun, known: Sent | None) -> Sent:
        """See :meth:`~corral.tracking.tracked_run.Tracker.send`."""
        from mlflow.exceptions import MlflowException

        try:
            return self._send(run, known)
        except (MlflowException, ImportError) as error:  # ImportError: a kind of store that needs more
            first = _without_password(str(error).splitlines()[0])
            raise ValueError(f"MLflow at {self._uri}: {first} (MLFLOW_TRACKING_URI says where it is)") from error

    def _send(self, run: TrackedRun, known: Sent | None) -> Sent:
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        client = MlflowClient()
        name = self._create(client, run) if known is None else known.run
        now = int(time.time() * 1000)
        values = [
            Metric(_key(key), value, now, epoch)
            for _, epoch, numbers in new_numbers(run, known)
            for key, value in numbers.items()
        ]
        values += [Metric(_key(key), value, now, 0) for key, value in judged_numbers(run, known).items()]
        for start in range(0, len(values), _NUMBERS):
            client.log_batch(name, metrics=values[start : start + _NUMBERS])
        if newly_judged(run, known):
            for path in run.files:
                client.log_artifact(name, str(path))
            client.set_terminated(name)
        return all_sent(run, self.where(), name)

    def _create(self, client: MlflowClient, run: TrackedRun) -> str:
        """A new run with its settings and facts, in the experiment of this name."""
        from mlflow.entities import Param

        experiment = client.get_experiment_by_name(self._project)
        place = client.create_experiment(self._project) if experiment is None else experiment.experiment_id
        tags = {**run.facts, "mlflow.note.content": run.description}
        name = str(client.create_run(place, tags=tags, run_name=run.name).info.run_id)
        settings = [Param(key, value[:_LENGTH]) for key, value in run.settings.items()]
        for start in range(0, len(settings), _SETTINGS):
            client.log_batch(name, params=settings[start : start + _SETTINGS])
        return name


def _without_password(text: str) -> str:
    """Addresses in it without the name and password they may hold: they are printed, and noted in the run."""
    return re.sub(r"://[^/@\s]*@", "://", text)


def _key(name: str) -> str:
    """MLflow's names have no ``@``."""
    return name.replace("@", "_at_")
