"""export_onnx: every model that corral trains, or its name in the refusal; what differs is not written."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import polars as pl
import pytest
import torch
from small_system import small_system
from torch import Tensor, nn

from corral.cli import build
from corral.data.batches import Query
from corral.data.features import FeatureTable
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker
from corral.retrieval.feature_fields import NumericScale
from corral.serving.onnx import export as export_module
from corral.serving.onnx.export import ItemTower, UserTower, export_onnx
from corral.serving.onnx.portable_models import PortableRanker
from corral.serving.onnx.session import Session
from corral.settings import load_settings

pytestmark = pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="needs corral[export]")
LENGTH = 7
REFUSED = {"gru4rec", "dien"}


def features() -> tuple[FeatureTable, FeatureTable]:
    """Every kind of feature, missing values too."""
    tables = small_system().tables
    users = pl.DataFrame(
        {
            "user_id": tables.users.ids.to_pylist(),
            "age": [30.0, None, 20.0, 50.0, None, 40.0, 31.0, 33.0],
            "city": ["a", "b", None, "a", "a", "b", "c", "a"],
        }
    )
    items = pl.DataFrame(
        {
            "item_id": tables.items.ids.to_pylist(),
            "genre": ["g1", "g2", None] * 10,
            "tags": [["x"], ["x", "y"], None, [], ["z"]] * 6,
            "price": [1.0, None, 3.5] * 10,
        }
    )
    return FeatureTable.build(users, "user_id", tables.users), FeatureTable.build(items, "item_id", tables.items)


def inputs(queries: int, width: int, seed: int) -> dict[str, Tensor]:
    """Any rows, histories of every length."""
    users, items = features()
    generator = torch.Generator().manual_seed(seed)
    history = torch.randint(1, items.rows, (queries, LENGTH), generator=generator)
    lengths = torch.arange(queries) % (LENGTH + 1)
    history[torch.arange(LENGTH) < (LENGTH - lengths)[:, None]] = 0
    return {
        "user": torch.randint(1, users.rows, (queries,), generator=generator),
        "history": history,
        "time": torch.full((queries,), 5),
        "items": torch.randint(0, items.rows, (queries, width), generator=generator),
    }


def difference(module: nn.Module, names: list[str], folder: Path) -> float:
    """Written from one size, asked at others."""
    with torch.no_grad():
        example = inputs(3, 5, 0)
        session = export_module._written(
            module, {name: example[name] for name in names}, folder / "model.onnx", "the model"
        )
        sets = [{name: given[name] for name in names} for given in (inputs(1, 1, 1), inputs(11, 40, 2))]
        return export_module._difference(module, session, sets)


@pytest.mark.slow
@pytest.mark.parametrize("kind", build.CTR_MODELS)
def test_every_ctr_model_or_a_refusal(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = load_settings(f"data: {{name: x}}\nranker: {{kind: {kind}, history_length: {LENGTH}}}\n", "x")
    assert settings.ranker is not None
    ranker = build.make_ranker({**settings.ranker.model_dump(mode="json"), "sparse": False}, *features()).eval()
    module = PortableRanker(ranker)
    if kind in REFUSED:
        with pytest.raises(ValueError, match="the model cannot be exported to ONNX; serve it with torch"):
            difference(module, module.inputs, tmp_path)
        return
    assert difference(module, module.inputs, tmp_path) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", build.RETRIEVERS)
def test_every_retriever_or_a_refusal(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    users, items = features()
    settings = load_settings(f"data: {{name: x}}\nretriever: {{kind: {kind}}}\n", "x")
    spec = {**settings.retriever.model_dump(mode="json"), "sparse": False}
    retriever = build.make_retriever(spec, users, items, torch.arange(items.rows)).eval()
    if kind in REFUSED:
        with pytest.raises(ValueError, match="the model cannot be exported to ONNX; serve it with torch"):
            difference(UserTower(retriever), ["user", "history"], tmp_path)
    else:
        assert difference(UserTower(retriever), ["user", "history"], tmp_path) < 1e-5
    flat = ItemTower(retriever)
    with torch.no_grad():
        session = export_module._written(flat, {"items": torch.arange(5)}, tmp_path / "items.onnx", "the tower")
        assert export_module._difference(flat, session, [{"items": torch.arange(items.rows)}]) < 1e-5


def test_what_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recommender = small_system().recommender(num_candidates=12)

    def wrong(self: Session, given: dict[str, Tensor]) -> Tensor:
        return right(self, given) + 0.01

    right = Session.__call__
    monkeypatch.setattr(Session, "__call__", wrong)
    out = tmp_path / "onnx"
    with pytest.raises(ValueError, match=r"user tower \(MeanRetriever\): ONNX Runtime and torch differ by 0\.01, more"):
        export_onnx(out, recommender, {"version": "1"})
    assert not out.exists()
    assert list(tmp_path.iterdir()) == []


class Deciding(nn.Module):
    """Does one thing or another by the values of its input, which no graph can."""

    def forward(self, query: Query, items: Tensor) -> Tensor:
        return items.float() if int(items.sum()) > 3 else -items.float()


def test_parts_that_cannot_be_exported_are_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ranker = PortableRanker(Deciding())
    with pytest.raises(ValueError, match="the model cannot be exported to ONNX; serve it with torch"):
        difference(ranker, ranker.inputs, tmp_path)
    assert capfd.readouterr() == ("", "")  # not the program that torch could not trace
    users, items = features()
    fields = Fields(users.rows, items.rows, field_size=4, request_scales={"hour": NumericScale()})
    with pytest.raises(ValueError, match="reads request features"):
        PortableRanker(FieldRanker(fields, nn.Identity()))  # type: ignore[arg-type]
