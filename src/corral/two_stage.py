"""TwoStage: from a DataFrame to recommendations in one object that only puts together what the library offers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from corral.cli.experiment import Experiment
from corral.cli.own_parts import (
    OWN_CTR_MODEL,
    OWN_RANKER,
    OWN_RETRIEVER,
    MakeCtrModel,
    MakeModel,
    MakeSampler,
    OwnParts,
    part_name,
)
from corral.cli.recipes import read_recipe
from corral.cli.run import bundle_folder, judge, open_models, open_recommender, train_run
from corral.cli.run_files import EVALUATION, MANIFEST_FILE, SETTINGS_FILE, check_finished, read_settings
from corral.data.dataset import Dataset
from corral.data.interactions import ColumnMap, Interactions
from corral.data.readers import tabular
from corral.data.split import Part
from corral.evaluation.result import Evaluation
from corral.serving.bundle import save_bundle
from corral.serving.filters import Ids
from corral.serving.manifest import read_manifest
from corral.serving.recommendations import Neighbours, Predictions, Recommendations
from corral.serving.recommender import TwoStageRecommender
from corral.settings import Settings
from corral.stage_settings import RANKER_INPUTS

# The Dataset of a table given to fit: its place below the run's directory; and its name, the same in every run, for
# runs on data of different names are not held against each other.
DATA, NAME = "data", "events"


@dataclass(frozen=True)
class _Fitted:
    """What a fit leaves; of a bundle alone there is no evaluation.

    Attributes:
        experiment: None: of a bundle alone; or of a run that was loaded and whose data were not asked for yet: they may
            have grown since, and what is trained serves all the same.
    """

    bundle: Path
    recommender: TwoStageRecommender
    experiment: Experiment | None
    evaluation: Evaluation | None


class TwoStage:
    """A recipe that can be fitted to a table: a retriever and a ranker, trained, judged, asked, saved.

    Nothing is computed here: ``fit`` is ``corral train``, ``evaluate`` is ``corral evaluate``, and what is asked of a
    fitted one is asked of its ``recommender``, which can do more than the methods here.

    Args:
        recipe: the name of a shipped recipe, or the path of a YAML file; its ``data`` are replaced by those of ``fit``.
        overrides: settings to change, by dotted name: ``{"retriever.size": 32, "together.epochs": 2}``.
        run: directory of the run: checkpoints, bundle, evaluation; a fit that was interrupted goes on there, and all
            of ``corral``'s commands take it. None: a temporary one that goes with the object.
        quiet: no progress bars.
        retriever: makes a retriever of your own, in the recipe's place: see :class:`~corral.cli.own_parts.OwnParts`.
        ctr_model: the same for the CTR model; what the recipe's ranker reads besides stays.
        ranker: the same for the whole ranker.
        sampler: makes a sampler of your own, for the trainings whose ``sampler`` is ``own``.

    Raises:
        ValueError: no such recipe, or a wrong setting; the message names the nearest known one.
    """

    def __init__(
        self,
        recipe: str | Path,
        overrides: Mapping[str, Any] | None = None,
        *,
        run: str | Path | None = None,
        quiet: bool = False,
        retriever: MakeModel | None = None,
        ctr_model: MakeCtrModel | None = None,
        ranker: MakeModel | None = None,
        sampler: MakeSampler | None = None,
    ) -> None:
        self._own = OwnParts(retriever, ctr_model, ranker, sampler)
        self._recipe, self._overrides = str(recipe), {**_own_kinds(str(recipe), self._own), **(overrides or {})}
        self._run, self._quiet = None if run is None else Path(run), quiet
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._fitted: _Fitted | None = None
        # A typo is answered now, not after the data were read.
        self._settings: Settings | None = read_recipe(self._recipe, _assignments(self._overrides))
        self._own.check(self._settings)

    def fit(
        self,
        events: Any = None,
        *,
        columns: ColumnMap = tabular.DEFAULT_COLUMNS,
        user_features: Any = None,
        item_features: Any = None,
        impressions: Any = None,
        text_columns: Sequence[str] = (),
        time_unit: str = "seconds",
        event_weights: Mapping[str, float] | None = None,
        separator: str | None = None,
        encoding: str = "utf-8",
        skip_bad_rows: bool = False,
    ) -> Self:
        """Trains both stages, tunes their mixture on validation, and judges the funnel on the test part.

        Args:
            events: a pandas, polars or pyarrow table, the path of a file, ``Interactions`` of a reader, or a
                ``Dataset``. None: the data that the recipe names.
            columns: which column of the table is which.
            user_features: a table (or path) with the user column, then features.
            item_features: the same of items.
            impressions: a table of what was shown and not clicked.
            text_columns: feature columns that are text, such as a title: for people, and for a text encoder.
            time_unit: of the timestamps (dates are brought to it).
            event_weights: what each kind of event counts in training, for ``columns.event_type``; a column of
                weights needs only ``columns.weight``.
            separator: of text files; by default "," and a tab in .tsv files.
            encoding: of text files.
            skip_bad_rows: drop, count and list bad rows (``header.skipped_rows``) instead of raising.

        Raises:
            ValueError: the table is wrong (row, column, value are named), or ``run`` holds another run.
        """
        if self._settings is None:
            raise ValueError(f"{self._recipe}: a bundle holds no settings to train by; make a new TwoStage of a recipe")
        beside = (user_features, item_features, impressions, event_weights)
        directory = self._new_directory()
        if events is None or isinstance(events, Dataset | Interactions):
            if any(one is not None for one in beside):
                raise ValueError(
                    f"features, impressions and event_weights go with a table of events, not with {_kind(events)}"
                )
        else:
            events = tabular.read(
                events,
                columns=columns,
                user_features=user_features,
                item_features=item_features,
                impressions=impressions,
                text_columns=text_columns,
                time_unit=time_unit,
                event_weights=event_weights,
                separator=separator,
                encoding=encoding,
                skip_bad_rows=skip_bad_rows,
            )
        if isinstance(events, Interactions):
            events = _written(directory, events)
        overrides = dict(self._overrides)
        if events is not None:
            overrides["data"] = {"path": str(events.path)}
        self._settings = read_recipe(self._recipe, _assignments(overrides))
        experiment = Experiment.start(self._settings, directory, quiet=self._quiet, own=self._own)
        evaluation = train_run(experiment)
        recommender = open_recommender(directory, self._settings.device, self._own)
        self._fitted = _Fitted(bundle_folder(directory), recommender, experiment, evaluation)
        return self

    def recommend(
        self,
        users: Ids,
        k: int = 10,
        *,
        filter_seen: bool | None = None,
        allow: Ids | None = None,
        deny: Ids | None = None,
        history: Sequence[Sequence[Any] | None] | None = None,
        explain: bool = False,
    ) -> Recommendations:
        """The k best items for each user, by their own ids; see :meth:`TwoStageRecommender.recommend`."""
        return self.recommender.recommend(
            users, k, filter_seen=filter_seen, allow=allow, deny=deny, history=history, explain=explain
        )

    def predict(self, users: Ids, items: Ids | None = None) -> Predictions:
        """What the ranker says of each (user, item) pair; see :meth:`TwoStageRecommender.predict`."""
        return self.recommender.predict(users, items)

    def similar_items(self, items: Ids, k: int = 10) -> Neighbours:
        """The k items most like each item; see :meth:`TwoStageRecommender.similar_items`."""
        return self.recommender.similar_items(items, k)

    def similar_users(self, users: Ids, k: int = 10) -> Neighbours:
        """The k users most like each user; see :meth:`TwoStageRecommender.similar_users`."""
        return self.recommender.similar_users(users, k)

    def evaluate(self, part: Literal["test", "valid"] = "test") -> Evaluation:
        """Each stage and the whole funnel on a part of the data; nothing is trained.

        Raises:
            ValueError: not fitted, or loaded from a bundle alone, which holds no events.
        """
        if part not in ("test", "valid"):
            raise ValueError(f"part={part!r}: it is 'test' or 'valid'")
        evaluation = self._known.evaluation
        if part == "test" and evaluation is not None:
            return evaluation
        experiment = self._run_of("judge by")
        models = open_models(experiment.directory, experiment.settings.device, self._own)
        return judge(experiment, models, Part[part.upper()])

    def save(self, path: str | Path) -> None:
        """Writes the bundle: what :meth:`load`, ``corral recommend`` and ``corral serve`` take; whole or not at all.

        A bundle that is there is replaced, anything else is not.
        """
        data = read_manifest(self._known.bundle).data
        save_bundle(Path(path), self.recommender, data_name=data["name"], data_hash=data["hash"])

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        retriever: MakeModel | None = None,
        ctr_model: MakeCtrModel | None = None,
        ranker: MakeModel | None = None,
        sampler: MakeSampler | None = None,
    ) -> Self:
        """A fitted one from a bundle, or from the directory of a finished run, which can also be judged.

        Args:
            path: the bundle or the run.
            device: where the models go.
            retriever: as it was given when this was fitted; files hold no code. The same for the other three.

        Raises:
            ValueError: neither, damaged, or a part of your own is missing.
        """
        path, loaded = Path(path), cls.__new__(cls)
        loaded._own, loaded._quiet = OwnParts(retriever, ctr_model, ranker, sampler), False
        loaded._recipe, loaded._overrides, loaded._temporary = str(path), {}, None
        loaded._run, loaded._settings, evaluation = None, None, None
        recommender = open_recommender(path, device, loaded._own)
        if (path / SETTINGS_FILE).is_file():
            check_finished(path, MANIFEST_FILE)
            evaluation = Evaluation.open(path / EVALUATION)
            loaded._run, loaded._recipe, loaded._settings = path, str(path / SETTINGS_FILE), read_settings(path)
            loaded._own.check(loaded._settings)
        loaded._fitted = _Fitted(bundle_folder(path), recommender, None, evaluation)
        return loaded

    @property
    def recommender(self) -> TwoStageRecommender:
        """What answers: filters, slates, live events, re-ranking of your own candidates.

        Raises:
            ValueError: not fitted yet.
        """
        return self._known.recommender

    @property
    def settings(self) -> Settings:
        """All settings, defaults included.

        Raises:
            ValueError: loaded from a bundle alone, which does not hold those of its training.
        """
        if self._settings is None:
            raise ValueError(f"{self._recipe}: a bundle does not hold the settings of its training")
        return self._settings

    @property
    def dataset(self) -> Dataset:
        """What it was fitted on.

        Raises:
            ValueError: not fitted, or loaded from a bundle alone.
        """
        return self._run_of("show").dataset

    @property
    def run(self) -> Path | None:
        """The run's directory, for ``corral report`` and the other commands; None: there is none that stays."""
        return self._run

    def __repr__(self) -> str:
        if self._fitted is None:
            return f"TwoStage({self._recipe!r}, not fitted)"
        recommender = self._fitted.recommender
        tables = recommender.tables
        parts = [type(part).__name__ for part in (recommender.retriever, recommender.ranker) if part is not None]
        return (
            f"TwoStage({self._recipe!r}, {' then '.join(parts)}; "
            f"{len(tables.users.ids):,} users, {len(tables.items.ids):,} items)"
        )

    def _repr_html_(self) -> str:
        said = f"<div><code>{escape(repr(self))}</code></div>"
        evaluation = None if self._fitted is None else self._fitted.evaluation
        return said if evaluation is None else said + evaluation._repr_html_()

    @property
    def _known(self) -> _Fitted:
        if self._fitted is None:
            raise ValueError("not fitted yet: call fit(events) first, or TwoStage.load(path)")
        return self._fitted

    def _run_of(self, purpose: str) -> Experiment:
        known = self._known
        if known.experiment is not None:
            return known.experiment
        if self._run is None:
            raise ValueError(f"{known.bundle}: a bundle holds no events to {purpose}; load the run's directory instead")
        experiment = Experiment.open(self._run, own=self._own)
        self._fitted = replace(known, experiment=experiment)
        return experiment

    def _new_directory(self) -> Path:
        if self._run is not None:
            return self._run
        self._temporary = tempfile.TemporaryDirectory(prefix="corral-")
        return Path(self._temporary.name)


def _written(directory: Path, events: Interactions) -> Dataset:
    """The events as the run's own Dataset; the one that is there, if it holds the same.

    Raises:
        ValueError: it holds others.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / DATA
    if not path.exists():
        return Dataset.write(path, events, name=NAME)
    new = Dataset.write(directory / f"{DATA}.new", events, name=NAME, overwrite=True)
    try:
        old = Dataset.open(path)
        if old.hash != new.hash:
            raise ValueError(f"{directory}: was fitted on other events; choose another run=")
        return old
    finally:
        shutil.rmtree(new.path)


def _own_kinds(recipe: str, own: OwnParts) -> dict[str, Any]:
    """The settings that say which parts are one's own."""
    if own.ctr_model is not None and own.ranker is not None:
        raise ValueError("ctr_model and ranker: a ranker of your own has its own model; give one of them")
    changed: dict[str, Any] = {}
    settings = read_recipe(recipe)
    if own.retriever is not None:
        lengths = [getattr(settings.retriever, name, 0) for name in ("max_length", "history_length")]
        name = part_name(own.retriever)
        changed["retriever"] = {"kind": OWN_RETRIEVER, "name": name, "history_length": max(lengths)}
    ranker = own.ctr_model or own.ranker
    if ranker is not None:
        changed["ranker.kind"] = OWN_RANKER if own.ranker else OWN_CTR_MODEL
        changed["ranker.name"] = part_name(ranker)
    if own.ranker is not None:
        changed |= dict.fromkeys(f"ranker.{name}" for name in RANKER_INPUTS)
        changed["evaluation.correction"] = False
    return changed


def _assignments(overrides: Mapping[str, Any]) -> list[str]:
    """Overrides as the command line takes them."""
    return [f"{name}={yaml.safe_dump(value, default_flow_style=True)}" for name, value in overrides.items()]


def _kind(events: object) -> str:
    return "the recipe's own data" if events is None else type(events).__name__
