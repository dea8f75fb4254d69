"""Notes before a run: settings that nothing reads are named, and none of a shipped recipe is such."""

from __future__ import annotations

import pytest

from corral.cli.recipes import read_recipe, recipe_names
from corral.cli.start_notes import unread_settings


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_say_nothing_in_vain(name: str) -> None:
    assert list(unread_settings(read_recipe(name))) == []


@pytest.mark.parametrize(
    ("recipe", "overrides", "unread"),
    [
        ("two-stage", ["retriever_training.loss=full-softmax", "retriever_training.sampler=midx"], "sampler"),
        ("two-stage", ["retriever_training.loss=sampled-softmax", "retriever_training.sampler=midx"], None),
        ("two-stage", ["retriever_training.loss=in-batch", "retriever_training.num_negatives=7"], "num_negatives"),
        ("two-stage", ["ranker_training.sampler=uniform", "ranker_training.depth=7"], "depth"),
        ("two-stage", ["ranker_training.sampler=top-k", "ranker_training.depth=7"], None),
        ("two-stage", ["ranker_training.sampler=uniform", "ranker_training.num_codewords=7"], "num_codewords"),
        ("two-stage", ["ranker_training.label_at_least=4"], "label_at_least"),
        ("rar", ["ranker_training.num_negatives=7"], "num_negatives"),
        ("corr", ["retriever_training.epochs=7"], "retriever_training"),
        ("corr", ["retriever_training.epochs=7", "together.warm_start=true"], None),
        ("corr", ["ranker_training.epochs=7"], "ranker_training"),
        ("corr", ["together.depth=7"], "together.depth"),
    ],
)
def test_what_a_training_does_not_read_is_named(recipe: str, overrides: list[str], unread: str | None) -> None:
    before = {name for name, _ in unread_settings(read_recipe(recipe))}
    named = {name for name, _ in unread_settings(read_recipe(recipe, overrides))} - before
    assert {name.split(".")[-1] for name in named} == (set() if unread is None else {unread.split(".")[-1]})
