"""Study: trials around a recipe, each an ordinary run that stops before the test part; judged on validation alone"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from corral.cli.experiment import Experiment
from corral.cli.run import train_stages
from corral.cli.run_files import read_log
from corral.cli.search_space import SearchSpace, dump_search, overrides_of, params_of, suggest
from corral.data.only_holder import only_holder
from corral.settings import Settings, dump_settings, last_training, load_settings
from corral.training.fit import FitState

# Lines of JSON; Optuna pickles snapshots of other journals, not of files.
NAME, JOURNAL, TRIALS, TRAINED = "tuning", "study.jsonl", "trials", "trained to its end"
# Trials drawn at random before the sampler follows what was found, and finished before the pruner compares with them.
STARTUP = 5


class _OutOfTime(Exception):
    """The budget ended within a trial, which goes on when the study does."""


def _only_study(journal: Path) -> AbstractContextManager[None]:
    """Two processes on a study would train the same trial: the second one is refused."""
    return only_holder(
        journal, f"{journal.parent}: another corral tune works on this study: wait, or choose another --out"
    )


def _drop_torn_line(journal: Path) -> None:
    """Cuts a journal after its last whole line: an unplugged machine may leave half of one."""
    if not journal.exists():
        return
    with journal.open("r+b") as file:
        text = file.read()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            file.truncate(whole)
            os.fsync(file.fileno())


@dataclass(frozen=True)
class Study:
    """Trials around a recipe, resumable.

    Attributes:
        settings: the recipe as it stands; the first trial.
        space: what the other trials change.
        directory: of the journal and the trials' runs.
        data_hash: of the Dataset that it is about.
        storage: the journal.
        journal: Optuna's own study, kept there.
    """

    settings: Settings
    space: SearchSpace
    directory: Path
    data_hash: str
    storage: BaseStorage
    journal: optuna.Study

    @classmethod
    def open(cls, settings: Settings, space: SearchSpace, directory: Path, data_hash: str) -> Study:
        """A new study, or one that goes on, in ``directory``.

        Raises:
            ValueError: the directory holds a study of another recipe, search space or data, a damaged one, or one that
                another process works on.
        """
        directory.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path = directory / JOURNAL
        with _only_study(path):
            _drop_torn_line(path)
        try:
            storage = JournalStorage(JournalFileBackend(str(path)))
            journal = optuna.create_study(
                storage=storage,
                study_name=NAME,
                direction="maximize",
                pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP),
                load_if_exists=True,
            )
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: damaged ({error}); choose another directory: --out") from error
        told = {"settings": dump_settings(settings), "search": dump_search(space), "data_hash": data_hash}
        for name, known in journal.user_attrs.items():
            if told[name] != known:
                what = name.replace("_hash", "")
                raise ValueError(f"{directory}: holds a study of other {what}; choose another directory: --out")
        for name, value in told.items():
            journal.set_user_attr(name, value)
        return cls(settings, space, directory, data_hash, storage, journal)

    def run(
        self,
        *,
        seconds: float,
        trials: int | None = None,
        on_trial: Callable[[FrozenTrial], None] = lambda trial: None,
        quiet: bool = False,
    ) -> None:
        """Goes on until the budget ends; what runs then, or is interrupted, goes on in the next call.

        Args:
            seconds: of this call; a trial ends with its epoch.
            trials: of the study in all, those of earlier calls counted; None: no bound.
            on_trial: called with every trial that ends.
            quiet: no progress bars.

        Raises:
            ValueError: the recipe as it stands does not train (what other trials raise is noted with them), or another
                process works on the study.
        """
        with _only_study(self.directory / JOURNAL):
            self._run(seconds, trials, on_trial, quiet)

    def _run(self, seconds: float, trials: int | None, on_trial: Callable[[FrozenTrial], None], quiet: bool) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and (trials is None or len(self._ended()) < trials):
            trial = self._next()
            began = time.monotonic()
            value: float | None = None
            try:
                value, state = self._attempt(trial, deadline, quiet), TrialState.COMPLETE
            except optuna.TrialPruned:
                state = TrialState.PRUNED
            except _OutOfTime:
                return
            except ValueError as error:
                if trial.number == 0:
                    raise
                trial.set_user_attr("error", str(error))
                # Not FAIL: the sampler would leave it out of account, and draw the like of it again.
                state = TrialState.PRUNED
            finally:
                trial.set_user_attr("seconds", trial.user_attrs.get("seconds", 0.0) + time.monotonic() - began)
            on_trial(self.journal.tell(trial, value, state))

    def _ended(self) -> list[FrozenTrial]:
        return [trial for trial in self.journal.get_trials(deepcopy=False) if trial.state.is_finished()]

    def overrides(self, trial: Trial | FrozenTrial) -> tuple[str, ...]:
        """What a trial changes in the recipe; the first changes nothing."""
        return () if trial.number == 0 else overrides_of(trial.params)

    def place(self, number: int) -> Path:
        """The run directory of a trial."""
        return self.directory / TRIALS / str(number)

    def trial_settings(self, trial: Trial | FrozenTrial) -> Settings:
        """The recipe with a trial's overrides."""
        return load_settings(
            dump_settings(self.settings, defaults=False), f"trial {trial.number}", self.overrides(trial)
        )

    def best(self) -> FrozenTrial | None:
        """The trial with the highest value among those that were trained to their end; None before the first."""
        ended = [trial for trial in self._ended() if trial.state == TrialState.COMPLETE]
        return max(ended, key=lambda trial: trial.values[0], default=None)

    def _next(self) -> Trial:
        """The trial that was interrupted, or a new one; a sampler of its own makes it independent of interruptions."""
        known = self.journal.get_trials(deepcopy=False)
        number = next((trial.number for trial in known if not trial.state.is_finished()), len(known))
        seed = int(np.random.SeedSequence([self.settings.seed, number]).generate_state(1)[0])
        self.journal.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
        # The recipe's own values, where the space holds them, are for the sampler to learn from.
        own = params_of(self.settings, self.space)
        if not known:
            self.journal.enqueue_trial(own)
        if number < len(known) and known[number].state == TrialState.RUNNING:
            study = self.storage.get_study_id_from_name(NAME)
            trial = Trial(self.journal, self.storage.get_trial_id_from_study_id_trial_number(study, number))
        else:
            trial = self.journal.ask()
        suggest(trial, self.space if number else {name: self.space[name] for name in own})
        return trial

    def _attempt(self, trial: Trial, deadline: float, quiet: bool) -> float:
        """Trains a trial; the best value of the metric that its last training watches."""
        last, metric = last_training(self.settings)

        reported = set(self.journal.get_trials(deepcopy=False)[trial.number].intermediate_values)

        def report(records: Sequence[Mapping[str, float]]) -> None:
            """Also those that a killed process left unreported."""
            for record in records:
                epoch = int(record["epoch"]) + 1
                if metric in record and epoch not in reported:
                    trial.report(record[metric], epoch)
                    reported.add(epoch)

        def on_epoch(training: str, state: FitState) -> None:
            if training == last:
                if state.finished:
                    # Before its report: whoever is killed between the two is not to prune what has ended.
                    trial.set_user_attr(TRAINED, True)
                report(state.records)
                if state.finished:
                    return
                if trial.should_prune():
                    raise optuna.TrialPruned
            if time.monotonic() > deadline:
                raise _OutOfTime

        if TRAINED not in trial.user_attrs and trial.should_prune():  # it was to be, when it was interrupted
            raise optuna.TrialPruned
        settings, place = self.trial_settings(trial), self.place(trial.number)
        self._take_retriever(settings, place)
        experiment = Experiment.start(settings, place, quiet=quiet, on_epoch=on_epoch)
        train_stages(experiment)
        records = read_log(place / last)
        report(records)
        values = [record[metric] for record in records if metric in record]
        if not values:
            raise ValueError(f"{place}: the training of the {last} gave no {metric} on validation: is epochs above 0?")
        return max(values)

    def _take_retriever(self, settings: Settings, place: Path) -> None:
        """Trials that leave stage 1 alone take the first trial's, which training would only make again."""
        target, source = place / "retriever", self.place(0) / "retriever"
        if settings.together is not None or settings.ranker is None or target.exists() or not source.is_dir():
            return
        first, own = (one.model_dump(exclude={"ranker", "ranker_training"}) for one in (self.settings, settings))
        if first == own:
            temporary = place / "retriever.tmp"
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(source, temporary)
            temporary.rename(target)
