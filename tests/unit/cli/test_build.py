"""Names become classes: every setting of a model reaches its constructor."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import pytest
import torch

from corral.cli import build
from corral.cli.build import CTR_MODELS, RETRIEVERS, make_ranker, make_retriever
from corral.cli.recipes import read_recipe
from corral.data.batches import Query
from corral.data.features import FeatureTable
from corral.settings import RankerSettings, RetrieverSettings

KINDS = {settings.model_fields["kind"].default: settings for settings in get_args(get_args(RetrieverSettings)[0])}
del KINDS["own"]  # given in Python, see tests/system/test_two_stage.py
EMPTY = FeatureTable(9, {})


def test_every_kind_of_the_settings_has_its_class() -> None:
    assert set(RETRIEVERS) == set(KINDS)
    kinds = set(get_args(RankerSettings.model_fields["kind"].annotation))
    assert set(CTR_MODELS) == kinds - {"own-ctr-model", "own-ranker"}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_setting_of_a_retriever_is_given(kind: str) -> None:
    model, names = RETRIEVERS[kind]
    assert set(KINDS[kind].model_fields) - {"kind"} <= set(names), "a setting that does nothing"
    assert set(names) <= set(inspect.signature(model).parameters)


@pytest.mark.parametrize("kind", sorted(CTR_MODELS))
def test_what_a_ctr_model_is_given_it_takes(kind: str) -> None:
    model, names = CTR_MODELS[kind]
    assert set(names) <= set(RankerSettings.model_fields) & set(inspect.signature(model).parameters)


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch, table: dict[str, Any], kind: str) -> Iterator[dict[str, Any]]:
    """The keywords that the class of ``kind`` is built with."""
    model, names = table[kind]
    seen: dict[str, Any] = {}

    def note(*positional: Any, **keywords: Any) -> Any:
        seen.update(keywords)
        return model(*positional, **keywords)

    note.uses_history = getattr(model, "uses_history", False)  # type: ignore[attr-defined]
    maker: Callable[..., Any] = note
    monkeypatch.setitem(table, kind, (maker, names))
    yield seen


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_values_arrive(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = KINDS[kind](**({"size": 12} if kind != "popularity" else {}))
    with recorded(monkeypatch, build.RETRIEVERS, kind) as seen:
        make_retriever({**chosen.model_dump(mode="json"), "sparse": False}, EMPTY, EMPTY, torch.ones(9))
    settings = {name: value for name, value in chosen.model_dump(mode="json").items() if name != "kind"}
    assert {name: seen[name] for name in settings} == settings


@pytest.mark.parametrize("kind", sorted(CTR_MODELS))
def test_every_kind_of_ranker_is_made_from_the_click_recipe(kind: str) -> None:
    chosen = read_recipe("ml-100k-clicks", [f"ranker.kind={kind}", "ranker.batch_norm=true"]).ranker
    assert chosen is not None
    ranker = make_ranker(chosen.model_dump(mode="json"), EMPTY, EMPTY)
    two = torch.tensor([2, 3])
    query = Query(two, two, torch.tensor([[0, 0, 4], [5, 6, 7]]), two)
    logits = ranker.train()(query, torch.tensor([[2, 3, 4], [8, 7, 6]]))
    assert logits.shape == (2, 3)
    assert logits.isfinite().all()
    normed = any(isinstance(layer, torch.nn.BatchNorm1d) for layer in ranker.modules())
    assert normed == (kind not in {"lr", "fm"})


@pytest.mark.parametrize("kind", sorted(set(CTR_MODELS) - {"lr"}))
def test_settings_of_a_ctr_model_arrive(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = RankerSettings(kind=kind, hidden=(8, 4), heads=4, layers=1, cin=(5,), block_size=7, state_size=6)
    values, names = spec.model_dump(mode="json"), CTR_MODELS[kind][1]
    with recorded(monkeypatch, build.CTR_MODELS, kind) as seen:
        make_ranker(values, EMPTY, EMPTY)
    assert {name: seen[name] for name in names} == {name: values[name] for name in names}


def test_a_bundle_older_than_a_setting_has_its_default() -> None:
    spec = RankerSettings(kind="din").model_dump(mode="json")
    del spec["batch_norm"]
    assert not any(isinstance(layer, torch.nn.BatchNorm1d) for layer in make_ranker(spec, EMPTY, EMPTY).modules())


def test_a_ranker() -> None:
    spec = RankerSettings(kind="din", field_size=6, hidden=(5,), history_length=3, attention_size=4)
    ranker: Any = make_ranker(spec.model_dump(mode="json"), EMPTY, EMPTY)
    assert ranker.history_length == 3
    shapes = [tuple(value.shape) for value in ranker.state_dict().values()]
    assert (9, 6) in shapes, "fields of another size"
    linear: Any = make_ranker({**spec.model_dump(mode="json"), "kind": "lr"}, EMPTY, EMPTY)
    assert (9, 1) in [tuple(value.shape) for value in linear.state_dict().values()], "LR takes fields of size 1"
