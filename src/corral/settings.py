"""The typed settings of an experiment: what a recipe may say. Read in ``cli`` only."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from corral.settings_tree import explain, leave_other_data, leave_other_kind, override
from corral.stage_settings import (
    RankerSettings,
    RankerTrainingSettings,
    RetrieverSettings,
    RetrieverTrainingSettings,
    SASRecSettings,
    Together,
)
from corral.strict_yaml import read_yaml
from corral.training_settings import Strict


class DataSettings(Strict):
    """Where the events come from.

    ``name`` is ``online-retail`` (ships with corral) or a folder of CORRAL_DATA; ``path`` a Dataset directory
    made by ``corral data add``; give one of them.
    """

    name: str | None = None
    path: Path | None = None
    min_user_events: int = Field(1, ge=1, description="drop users with fewer events")
    min_item_events: int = Field(1, ge=1, description="drop items with fewer events")
    iterate: bool = Field(False, description="repeat both filters until nothing changes (k-core)")


class SplitSettings(Strict):
    """Which events train, validate and test."""

    rule: Literal["time-cut", "leave-last-two-out", "random", "given"] = "time-cut"
    valid_fraction: float = Field(0.1, gt=0, lt=1)
    test_fraction: float = Field(0.1, gt=0, lt=1)
    valid_from: int | None = Field(None, description="first time of validation, in the data's unit")
    test_from: int | None = Field(None, description="first time of test, in the data's unit")
    seed: int = Field(0, ge=0, description="rule random: of the lots; no other seed changes the split")
    repeats: bool = Field(False, description="may items that the user had before be recommended and counted?")


class EvaluationSettings(Strict):
    """How the funnel is judged."""

    num_candidates: int = Field(100, ge=1)
    batch_size: int = Field(512, ge=1)
    correction: bool = Field(
        False, description="fit on validation how far the ranker's evidence is trusted beside what it learned on train"
    )
    serve_by: Literal["validation", "retriever", "ranker", "fused"] = Field(
        "validation", description="what orders the served list; validation: what is best there"
    )


class ScaleSettings(Strict):
    """Training on several workers; it changes no result, so a run may go on with another number of them."""

    workers: int = Field(0, ge=0, description="processes that corral train starts; 0: an ordinary one")
    engine: Literal["torch", "ray"] = Field(
        "torch", description="who starts them: torch's launcher, on this machine, or Ray, here or on its cluster"
    )
    max_restarts: int = Field(3, ge=0, description="how often all start again from the last checkpoint where one died")
    timeout_seconds: float = Field(
        1800.0, gt=0, description="how long a worker waits for the others until it takes them for lost"
    )


class IndexSettings(Strict):
    """How the bundle's catalogue is searched; evaluation always searches exactly."""

    exact_up_to: int = Field(
        100_000, ge=0, description="items; a larger catalogue is searched by FAISS, where it is installed"
    )
    min_recall: float = Field(
        0.95, gt=0, le=1, description="share of the exact list that FAISS must find for users of the data"
    )


class Settings(Strict):
    """A whole experiment."""

    description: str = ""
    seed: int = Field(0, ge=0)
    device: str = Field("auto", description="cpu, cuda, cuda:1 ...; auto: the first CUDA device, else the CPU")
    deterministic: bool = Field(
        False, description="only operations that give the same bits every time; an error where a GPU has none"
    )
    low_precision: bool | Literal["auto"] | None = Field(
        None,
        description="matrix products of every training in bfloat16; auto: where the processor or GPU multiplies in it; "
        "null: as each training says",
    )
    threads: int = Field(0, ge=0, description="torch threads; 0: as torch chooses")
    continues: Path | None = Field(
        None, description="a finished run whose models this one starts from (corral train --from)"
    )
    data: DataSettings
    split: SplitSettings = SplitSettings()
    retriever: RetrieverSettings = SASRecSettings()
    retriever_training: RetrieverTrainingSettings = RetrieverTrainingSettings()
    ranker: RankerSettings | None = None
    ranker_training: RankerTrainingSettings = RankerTrainingSettings()
    together: Together | None = Field(None, description="both stages trained at once, instead of one after the other")
    evaluation: EvaluationSettings = EvaluationSettings()
    scale: ScaleSettings = ScaleSettings()
    index: IndexSettings = IndexSettings()

    @model_validator(mode="after")
    def _together_has_both(self) -> Settings:
        if self.together is None:
            return self
        if self.ranker is None or self.ranker_training.loss == "clicks":
            raise ValueError(
                "together trains a retriever and a ranker from events: it needs a ranker, without click labels"
            )
        if self.retriever.kind == "popularity":
            raise ValueError("together trains a retriever and a ranker: the popularity retriever learns nothing")
        if self.ranker.rar is not None:
            check_teacher(self.together, self.ranker.rar.rule)
        return self

    @model_validator(mode="after")
    def _what_can_be_continued(self) -> Settings:
        if self.continues is None:
            return self
        if self.split.rule == "random":
            raise ValueError(
                "split.rule=random deals all events anew: the run that is continued has trained on some that would now "
                "be tested; train anew"
            )
        if self.ranker is not None and self.ranker.rar is not None and self.ranker.rar.keys == "retriever":
            raise ValueError(
                "ranker.rar.keys=retriever cannot be continued: its retrievers, one a block, must not know what came "
                "after their block; train anew, or use other keys"
            )
        return self

    @model_validator(mode="after")
    def _somebody_reads_the_linear_weights(self) -> Settings:
        linear = None if self.ranker is None else self.ranker.linear
        if linear is not None and linear.late and not self.evaluation.correction:
            raise ValueError(
                "ranker.linear is read by the correction alone: set evaluation.correction=true, or "
                "ranker.linear.late=false to read it while training"
            )
        return self


def check_teacher(together: Together, rule: str | None) -> None:
    """Whether what a row sees of others by RAR's ``rule`` is kept from the row's teacher, too.

    Raises:
        ValueError: it is not.
    """
    judged = together.kind == "rankflow" or (together.kind == "corr" and together.clean_teacher)
    if judged and rule == "folds":
        raise ValueError(
            "ranker.rar.rule=folds (the default for data that have an order and no times): a teacher without dropout "
            "is asked as if it were judged, and would see the learner's own fold; use rule=blocks where there are "
            "times, or another teacher"
        )


# Of the list as it is served, and of each stage by itself.
ORDER_METRICS = ("ndcg@10", "retriever/ndcg@10", "ranker/ndcg@10")


def watchable(settings: Settings) -> dict[str, tuple[str, ...]]:
    """The metrics that validation gives while a stage is trained, higher is better, by the stage's settings."""
    lists = ("ndcg@10", "recall@10", "mrr@10", f"recall@{settings.evaluation.num_candidates}")
    watched = {"retriever_training": tuple(dict.fromkeys(lists))}
    if settings.ranker is not None:
        clicks = settings.ranker_training.loss == "clicks"
        watched["ranker_training"] = ("auc", "gauc") if clicks else ORDER_METRICS
    if settings.together is not None:
        watched["together"] = ORDER_METRICS
    return watched


def last_training(settings: Settings) -> tuple[str, str]:
    """The name of a run's last training ("retriever", "ranker" or "together"), and the metric it watches."""
    stage = list(watchable(settings))[-1]
    return stage.removesuffix("_training"), getattr(settings, stage).metric


def _check_watched(settings: Settings, source: str) -> None:
    """A metric that validation does not give would be found out only after the first epoch.

    Raises:
        ValueError: a stage is to watch such a metric.
    """
    for stage, known in watchable(settings).items():
        metric = getattr(settings, stage).metric
        if metric not in known:
            close = difflib.get_close_matches(metric, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{source}: {stage}.metric = {metric!r}: validation gives {', '.join(known)}{hint}")


def load_settings(text: str, source: str, overrides: tuple[str, ...] = ()) -> Settings:
    """Settings from YAML text and dotted overrides.

    An override of ``retriever.kind`` or ``together.kind`` leaves aside what the text says of the kind that it names,
    one of ``data.path`` the name and filters of the text's data, one of ``data.name`` its path.

    Args:
        text: YAML.
        source: name of the recipe or file, for error messages.
        overrides: ``a.b=value`` each.

    Raises:
        ValueError: not YAML, a key that stands twice, an unknown key or metric (with the nearest known one), or a bad
            value.
    """
    tree = read_yaml(text, source)
    if not isinstance(tree, dict):
        raise ValueError(f"{source}: a recipe is a mapping of settings, found {type(tree).__name__}")
    for assignment in overrides:  # of the text alone: both name and path by overrides are a mistake
        leave_other_data(tree, assignment)
    for assignment in overrides:
        leave_other_kind(tree, assignment, Settings)
        override(tree, assignment)
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        raise ValueError(explain(error, source, Settings)) from error
    _check_watched(settings, source)
    return settings


def dump_settings(settings: Settings, *, defaults: bool = True) -> str:
    """Settings as YAML that :func:`load_settings` reads back.

    Args:
        settings: of a recipe.
        defaults: those that the recipe does not name too; another kind of model, by an override, has others.
    """
    return yaml.safe_dump(settings.model_dump(mode="json", exclude_unset=not defaults), sort_keys=False)
