"""The typed settings of an experiment: what a recipe may say. Read in ``cli`` only."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError


class _Strict(BaseModel):
    """Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSettings(_Strict):
    """Where the events come from.

    ``name`` is ``online-retail`` (ships with corral) or a folder of CORRAL_DATA; ``path`` a Dataset directory
    made by ``corral data add``; give one of them.
    """

    name: str | None = None
    path: Path | None = None
    min_user_events: int = Field(1, ge=1, description="drop users with fewer events")
    min_item_events: int = Field(1, ge=1, description="drop items with fewer events")
    iterate: bool = Field(False, description="repeat both filters until nothing changes (k-core)")


class SplitSettings(_Strict):
    """Which events train, validate and test."""

    rule: Literal["time-cut", "leave-last-two-out", "given"] = "time-cut"
    valid_fraction: float = Field(0.1, gt=0, lt=1)
    test_fraction: float = Field(0.1, gt=0, lt=1)
    valid_from: int | None = Field(None, description="first time of validation, in the data's unit")
    test_from: int | None = Field(None, description="first time of test, in the data's unit")
    repeats: bool = Field(False, description="may items that the user had before be recommended and counted?")


class PopularitySettings(_Strict):
    """Items by their train counts; nothing is learned."""

    kind: Literal["popularity"] = "popularity"


class MatrixFactorizationSettings(_Strict):
    """One vector per user and per item."""

    kind: Literal["mf"] = "mf"
    size: int = Field(64, ge=1)
    user_dropout: float = Field(0.05, ge=0, lt=1)


class TwoTowerSettings(_Strict):
    """Ids, features and history of the user against id and features of the item."""

    kind: Literal["two-tower"] = "two-tower"
    size: int = Field(64, ge=1)
    hidden: tuple[int, ...] = (128,)
    dropout: float = Field(0.1, ge=0, lt=1)
    history_length: int = Field(50, ge=1)
    user_id: bool = True
    item_id: bool = True


class GRU4RecSettings(_Strict):
    """A recurrent net over the history."""

    kind: Literal["gru4rec"] = "gru4rec"
    size: int = Field(64, ge=1)
    hidden: int = Field(128, ge=1)
    layers: int = Field(1, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    max_length: int = Field(50, ge=2)


class SASRecSettings(_Strict):
    """A causal transformer over the history."""

    kind: Literal["sasrec"] = "sasrec"
    size: int = Field(64, ge=1)
    blocks: int = Field(2, ge=1)
    heads: int = Field(1, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    max_length: int = Field(50, ge=2)


RetrieverSettings = Annotated[
    PopularitySettings | MatrixFactorizationSettings | TwoTowerSettings | GRU4RecSettings | SASRecSettings,
    Field(discriminator="kind"),
]


class TrainingSettings(_Strict):
    """How one stage is trained."""

    epochs: int = Field(20, ge=0)
    batch_size: int = Field(256, ge=1, description="sequences (causal retrievers) or events per step")
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    max_norm: float = Field(5.0, ge=0, description="gradients are clipped to this joint norm; 0: off")
    warmup_steps: int = Field(0, ge=0)
    low_precision: bool = Field(False, description="matrix products of training in bfloat16")
    cosine: bool = Field(False, description="let the learning rate fall along a half cosine")
    patience: int = Field(5, ge=0, description="validations without improvement before stopping; 0: never")
    metric: str = "ndcg@10"
    validate_every: int = Field(1, ge=1)
    validation_queries: int = Field(20_000, ge=1, description="at most so many queries per validation")
    checkpoint_seconds: float = Field(60.0, gt=0)


class RetrieverTrainingSettings(TrainingSettings):
    """How stage 1 is trained."""

    loss: Literal["full-softmax", "sampled-softmax", "in-batch"] = "full-softmax"
    sampler: Literal["uniform", "popularity"] = "uniform"
    num_negatives: int = Field(100, ge=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)


class RankerSettings(_Strict):
    """A CTR model on the fields of user, item, context and history."""

    kind: Literal["lr", "fm", "deepfm", "dcnv2", "din"] = "din"
    field_size: int = Field(32, ge=1)
    history_length: int = Field(50, ge=1)
    hidden: tuple[int, ...] = (128, 64)
    dropout: float = Field(0.1, ge=0, lt=1)
    attention_size: int | None = Field(
        None, ge=1, description="din: compare candidate and history in this many dimensions; null: in all"
    )
    id_dropout: float = Field(0.05, ge=0, lt=1)
    embedding_dropout: float = Field(0.0, ge=0, lt=1)


class RankerTrainingSettings(TrainingSettings):
    """How stage 2 is trained.

    ``clicks``: log loss on the events' own labels (``label_at_least`` of the value column).
    ``softmax`` and ``bce``: the clicked item against ``num_negatives`` sampled ones.
    """

    loss: Literal["softmax", "bce", "clicks"] = "softmax"
    sampler: Literal["uniform", "popularity"] = "uniform"
    num_negatives: int = Field(20, ge=1)
    label_at_least: float | None = None
    max_per_user: int = Field(0, ge=0, description="train on at most so many events a user and epoch; 0: all")


class EvaluationSettings(_Strict):
    """How the funnel is judged."""

    num_candidates: int = Field(100, ge=1)
    batch_size: int = Field(512, ge=1)
    serve_by: Literal["validation", "retriever", "ranker", "fused"] = Field(
        "validation", description="what orders the served list; validation: what is best there"
    )


class Settings(_Strict):
    """A whole experiment."""

    description: str = ""
    seed: int = Field(0, ge=0)
    device: str = "auto"
    threads: int = Field(0, ge=0, description="torch threads; 0: as torch chooses")
    data: DataSettings
    split: SplitSettings = SplitSettings()
    retriever: RetrieverSettings = SASRecSettings()
    retriever_training: RetrieverTrainingSettings = RetrieverTrainingSettings()
    ranker: RankerSettings | None = None
    ranker_training: RankerTrainingSettings = RankerTrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()


def _known_keys(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Keys of the settings object at ``path`` (union tags in the path are skipped)."""
    from typing import get_args

    def models(annotation: Any) -> list[type[BaseModel]]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return [annotation]
        return [m for argument in get_args(annotation) for m in models(argument)]

    current = [model]
    for step in path:
        fields = [m.model_fields[step].annotation for m in current if step in m.model_fields]
        if fields:
            current = [m for annotation in fields for m in models(annotation)]
        else:
            tagged = [m for m in current if "kind" in m.model_fields and m.model_fields["kind"].default == step]
            current = tagged or current
    return sorted({key for m in current for key in m.model_fields})


def _explain(error: ValidationError, source: str) -> str:
    lines = []
    for problem in error.errors():
        path = problem["loc"]
        dotted = ".".join(str(step) for step in path)
        if problem["type"] == "extra_forbidden":
            known = _known_keys(Settings, path[:-1])
            close = difflib.get_close_matches(str(path[-1]), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
            lines.append(f"{source}: unknown key {dotted!r}; {hint}")
        else:
            lines.append(f"{source}: {dotted} = {problem.get('input')!r}: {problem['msg']}")
    return "\n".join(lines)


def _override(tree: dict[str, Any], assignment: str) -> None:
    """Applies ``a.b=value`` (the value is YAML)."""
    key, separator, value = assignment.partition("=")
    if not separator or not key:
        raise ValueError(f"override {assignment!r}: write it as key.key=value, for example retriever.size=128")
    *parents, leaf = key.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if child is None:
            child = tree[parent] = {}
        if not isinstance(child, dict):
            raise ValueError(f"override {assignment!r}: {parent!r} is not a group of settings")
        tree = child
    try:
        tree[leaf] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"override {assignment!r}: the value is not valid YAML ({error})") from error


def load_settings(text: str, source: str, overrides: tuple[str, ...] = ()) -> Settings:
    """Settings from YAML text and dotted overrides.

    Args:
        text: YAML.
        source: name of the recipe or file, for error messages.
        overrides: ``a.b=value`` each.

    Raises:
        ValueError: not YAML, an unknown key (with the nearest known one) or a bad value.
    """
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{source}: not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{source}: a recipe is a mapping of settings, found {type(tree).__name__}")
    for assignment in overrides:
        _override(tree, assignment)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise ValueError(_explain(error, source)) from error


def dump_settings(settings: Settings) -> str:
    """All settings, defaults included, as YAML that :func:`load_settings` reads back."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
