"""YAML as people write it for corral: UTF-8, and no key twice; errors name file, line and key"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_MERGE = "tag:yaml.org,2002:merge"


class _TwiceError(Exception):
    """A key stands twice in one mapping."""

    def __init__(self, key: str, first: int, second: int) -> None:
        super().__init__()
        self.key, self.first, self.second = key, first, second


class _UniqueKeyLoader(yaml.SafeLoader):
    """A SafeLoader for which a key that stands twice is an error.

    Seen while nodes are composed: later, the keys that ``<<`` brings in stand among a mapping's own, which may
    replace them.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                raise _TwiceError(key.value, lines[name], line)
            lines[name] = line
        return node


def read_yaml(text: str, source: str) -> Any:
    """What YAML text says.

    Args:
        text: YAML.
        source: the file, for error messages.

    Raises:
        ValueError: not YAML, or a key stands twice in one mapping.
    """
    try:
        loader = _UniqueKeyLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except _TwiceError as twice:
        where = "" if twice.first == twice.second else f" (first in line {twice.first})"
        raise ValueError(
            f"{source}, line {twice.second}: the key {twice.key!r} stands there twice{where}: keep one of them"
        ) from None
    except yaml.YAMLError as error:
        raise ValueError(f"{source}: not valid YAML: {error}") from error


def read_yaml_text(path: Path) -> str:
    """The text of a YAML file.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error}): save it as UTF-8") from error
