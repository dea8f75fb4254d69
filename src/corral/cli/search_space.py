"""What a study may change: settings by dotted name, each with a range or a list of values, checked before any trial"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from corral.settings import Settings, dump_settings, last_training, load_settings
from corral.strict_yaml import read_yaml
from corral.training_settings import Strict

if TYPE_CHECKING:
    from optuna.trial import Trial

SEARCHED = ("retriever", "retriever_training", "ranker", "ranker_training", "together")
# Settings of these that say what validation measures.
RULES = ("metric", "validation_queries", "label_at_least", "sampled_negatives", "sampled_negatives_seed")


class Range(Strict):
    """Numbers from ``low`` to ``high``, both included; whole numbers where both ends are int (``check_space``)."""

    low: int | float
    high: int | float
    log: bool = Field(False, description="equal chances for equal ratios")

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high, and above 0 where log is true")
        return self


class Choices(Strict):
    """A list of values of any type."""

    values: tuple[Any, ...] = Field(min_length=1)


SearchSpace = Mapping[str, Range | Choices]


def override(name: str, value: object) -> str:
    """A setting as ``corral train`` takes it; four digits of a number say enough."""
    return f"{name}={json.dumps(float(f'{value:.4g}') if isinstance(value, float) else value)}"


def overrides_of(params: Mapping[str, Any]) -> tuple[str, ...]:
    """Overrides from a trial's parameters: choices are held there as the text that follows ``=``."""
    return tuple(
        f"{name}={value}" if isinstance(value, str) else override(name, value) for name, value in params.items()
    )


def suggest(trial: Trial, space: SearchSpace) -> None:
    """Gives a trial a value of every setting; one that has it already keeps it."""
    for name, one in space.items():
        if isinstance(one, Choices):
            trial.suggest_categorical(name, [json.dumps(value) for value in one.values])
        elif isinstance(one.low, int) and isinstance(one.high, int):
            trial.suggest_int(name, one.low, one.high, log=one.log)
        else:
            trial.suggest_float(name, one.low, one.high, log=one.log)


def params_of(settings: Settings, space: SearchSpace) -> dict[str, Any]:
    """Parameters of a trial of these very settings: those that the space holds."""
    found: dict[str, Any] = {}
    for name, value in _values(settings.model_dump(mode="json")):
        one = space.get(name)
        if isinstance(one, Choices) and value in one.values:
            found[name] = json.dumps(one.values[one.values.index(value)])
        elif isinstance(one, Range) and value is not None and one.low <= value <= one.high:
            found[name] = value
    return found


def read_search(text: str, source: str, settings: Settings) -> SearchSpace:
    """A search space from YAML: ``a.b: {low: 1e-4, high: 1e-2, log: true}`` or ``a.b: [value, value]``.

    Args:
        text: YAML.
        source: the file, for error messages.
        settings: of the recipe that is searched around.

    Raises:
        ValueError: not YAML, a name given twice, one that the recipe lacks (with the nearest one), or a value that it
            refuses.
    """
    tree = read_yaml(text, source)
    if not isinstance(tree, dict) or not tree:
        raise ValueError(f"{source}: a search space is a mapping of settings, for example ranker.dropout: [0.0, 0.2]")
    return check_space({str(name): _read(str(name), said, source) for name, said in tree.items()}, source, settings)


def check_space(space: SearchSpace, source: str, settings: Settings) -> SearchSpace:
    """The space with its ranges whole where settings are; every end and every choice was tried on the recipe.

    Raises:
        ValueError: a name that the recipe lacks, a value that it refuses, or one that changes what is measured.
    """
    known = dict(_values(settings.model_dump(mode="json")))
    return {name: _checked(name, one, source, settings, known) for name, one in space.items()}


def dump_search(space: SearchSpace) -> str:
    """A search space as YAML that :func:`read_search` reads back."""
    tree = {name: list(one.values) if isinstance(one, Choices) else one.model_dump() for name, one in space.items()}
    return yaml.safe_dump(tree, sort_keys=False, default_flow_style=None)


def _read(name: str, said: object, source: str) -> Range | Choices:
    try:
        if isinstance(said, list):
            return Choices(values=tuple(said))
        return Range.model_validate(said)
    except ValidationError as error:
        problem = error.errors()[0]
        words = ": ".join([*map(str, problem["loc"]), problem["msg"].removeprefix("Value error, ")])
        raise ValueError(
            f"{source}: {name} = {said!r}: {words}; write {{low: 1e-4, high: 1e-2, log: true}}, or a list of values"
        ) from error


def _checked(
    name: str, one: Range | Choices, source: str, settings: Settings, known: Mapping[str, Any]
) -> Range | Choices:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{source}: the recipe has no setting {name!r}{hint}")
    judged = f"{source}: {name}: trials are compared, so how they are judged stays as the recipe says"
    if name.partition(".")[0] not in SEARCHED:
        raise ValueError(judged)
    if isinstance(one, Range):
        value = known[name]
        if isinstance(value, bool | str | list | dict):
            raise ValueError(f"{source}: {name} = {value!r} in the recipe: not a number, so list the values to try")
        whole = all(float(end).is_integer() for end in (one.low, one.high)) and not isinstance(value, float)
        kind = int if whole else float
        one = one.model_copy(update={"low": kind(one.low), "high": kind(one.high)})
    tried = one.values if isinstance(one, Choices) else (one.low, one.high)
    taken = []
    for value in tried:
        changed = load_settings(dump_settings(settings, defaults=False), source, (f"{name}={json.dumps(value)}",))
        if _judged_by(changed) != _judged_by(settings):
            raise ValueError(judged)
        if last_training(changed) != last_training(settings):
            raise ValueError(f"{source}: {name} = {value!r} changes what validation measures, so trials of it differ")
        # YAML takes 1e-4 for a text; the setting knows better.
        taken.append(dict(_values(changed.model_dump(mode="json")))[name] if isinstance(value, str) else value)
    return Choices(values=tuple(taken)) if isinstance(one, Choices) else one


def _judged_by(settings: Settings) -> dict[tuple[str, str], Any]:
    """The RULES of every group, also where a choice is of a whole group."""
    groups = ((name, getattr(settings, name)) for name in SEARCHED)
    return {(name, rule): getattr(group, rule, None) for name, group in groups for rule in RULES}


def _values(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting and every group of settings, by dotted name."""
    for name, value in tree.items():
        yield prefix + name, value
        if isinstance(value, dict):
            yield from _values(value, f"{prefix}{name}.")
