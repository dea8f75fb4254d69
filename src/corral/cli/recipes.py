"""Recipes: found by name among those shipped, or read from a file; light, so that a typo is answered at once."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from corral.settings import Settings, load_settings
from corral.strict_yaml import read_yaml_text


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files("corral.recipes").iterdir() if entry.name.endswith(".yaml")
    )


def read_recipe(recipe: str, overrides: Sequence[str] = ()) -> Settings:
    """Settings of a shipped recipe (by name) or of a YAML file (by path), with ``a.b=c`` overrides.

    Raises:
        ValueError: there is no such recipe, or its settings are wrong.
    """
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ValueError(f"recipe {recipe}: no such file")
        return load_settings(read_yaml_text(path), str(path), tuple(overrides))
    names = recipe_names()
    if recipe not in names:
        close = difflib.get_close_matches(recipe, names, n=1)
        hint = f"did you mean {close[0]!r}? Known are" if close else "known are"
        raise ValueError(f"recipe {recipe!r}: {hint} {', '.join(names)}; or give the path of a YAML file")
    text = files("corral.recipes").joinpath(f"{recipe}.yaml").read_text(encoding="utf-8")
    return load_settings(text, recipe, tuple(overrides))
