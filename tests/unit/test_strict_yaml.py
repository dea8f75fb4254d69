"""YAML that people write: a key that stands twice is an error, what YAML allows is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral.strict_yaml import read_yaml, read_yaml_text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "seed: 1\ndata: {name: x}\nseed: 2\n",
            "mine.yaml, line 3: the key 'seed' stands there twice (first in line 1)",
        ),
        ("a:\n  b: 1\n  'b': 2\n", "mine.yaml, line 3: the key 'b' stands there twice (first in line 2)"),
        ("a: [1, {b: 1, b: 1}]\n", "mine.yaml, line 1: the key 'b' stands there twice: keep one of them"),
    ],
)
def test_a_key_that_stands_twice(text: str, said: str) -> None:
    with pytest.raises(ValueError) as refused:
        read_yaml(text, "mine.yaml")
    assert said in str(refused.value)


def test_the_same_key_elsewhere_or_merged_in() -> None:
    assert read_yaml("a: {x: 1}\nb: {x: 2}\n", "t") == {"a": {"x": 1}, "b": {"x": 2}}
    merged = "top: {a: &a {<<: &base {k: 1, m: 2}, k: 3}}\nb: {<<: *a, m: 4}\n"
    assert read_yaml(merged, "t") == {"top": {"a": {"k": 3, "m": 2}}, "b": {"k": 3, "m": 4}}
    assert read_yaml("", "t") is None


@pytest.mark.parametrize("text", ["a: [", "a: \x07", "a: !!python/object/apply:os.getcwd []"])
def test_what_is_no_yaml(text: str) -> None:
    with pytest.raises(ValueError, match=r"mine.yaml: not valid YAML"):
        read_yaml(text, "mine.yaml")


def test_what_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"mine.yaml: not UTF-8 text .*save it as UTF-8"):
        read_yaml_text(path)
