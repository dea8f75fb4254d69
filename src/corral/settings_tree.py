"""A recipe's text as a tree of keys: overrides by dotted names, and what is told where a key or value is wrong."""

from __future__ import annotations

import difflib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from corral.strict_yaml import read_yaml


def _known_keys(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Keys of the settings object at ``path`` of ``model`` (union tags in the path are skipped)."""

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


def explain(error: ValidationError, source: str, model: type[BaseModel]) -> str:
    """What is wrong with each key, and what its name may have been meant to be."""
    lines = []
    for problem in error.errors():
        path = problem["loc"]
        dotted = ".".join(str(step) for step in path)
        if problem["type"] == "extra_forbidden":
            known = _known_keys(model, path[:-1])
            close = difflib.get_close_matches(str(path[-1]), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
            lines.append(f"{source}: unknown key {dotted!r}; {hint}")
        elif not path:  # of the settings as a whole: their value would be all of them
            lines.append(f"{source}: {problem['msg'].removeprefix('Value error, ')}")
        else:
            lines.append(f"{source}: {dotted} = {problem.get('input')!r}: {problem['msg']}")
    return "\n".join(lines)


def override(tree: dict[str, Any], assignment: str) -> None:
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
    tree[leaf] = read_yaml(value, f"override {assignment!r}: the value")


def leave_other_data(tree: dict[str, Any], assignment: str) -> None:
    """Takes away what the text says of its own data, filters too, where an override names other ones."""
    there, name = tree.get("data"), assignment.partition("=")[0]
    if isinstance(there, dict) and name in ("data.name", "data.path"):
        there.pop("path" if name == "data.name" else "name", None)
        for filtering in ("min_user_events", "min_item_events", "iterate") if name == "data.path" else ():
            there.pop(filtering, None)


def leave_other_kind(tree: dict[str, Any], assignment: str, model: type[BaseModel]) -> None:
    """Takes away what only the former kind knows, where an override names another one."""
    block, _, kind = assignment.partition(".kind=")
    there = tree.get(block)
    if block in ("retriever", "together") and isinstance(there, dict) and there.get("kind") not in (None, kind):
        former, new = (set(_known_keys(model, (block, one))) for one in (there["kind"], kind))
        for key in former - new:
            there.pop(key, None)
