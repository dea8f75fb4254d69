"""ModuleSpec: how to build a part of a recommender again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModuleSpec:
    """How to build a part again: a name for the builder, and its constructor keywords (JSON values only)."""

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
