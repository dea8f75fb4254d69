"""run_by_onnx: a recommender whose models are run by ONNX Runtime, from what ``export_onnx`` wrote.

Shape letters: B queries, N items per query, L history length, D vector size.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.data.batches import Query
from corral.retrieval.retriever import Retriever, pair_scores
from corral.serving.manifest import Manifest, verify_files
from corral.serving.onnx.export import EXPORT_FILE, FORMAT_VERSION
from corral.serving.onnx.portable_models import evidence_parts, reads_scores
from corral.serving.onnx.session import Session
from corral.serving.recommender import TwoStageRecommender


class OnnxRetriever:
    """A ``Retriever`` of two files.

    Args:
        user_tower, item_tower: the sessions.
        history_length: L of the exported user tower.
    """

    def __init__(self, user_tower: Session, item_tower: Session, history_length: int) -> None:
        self._users, self._items, self._length = user_tower, item_tower, history_length

    def encode_queries(self, query: Query) -> Tensor:
        """Query vectors [B, D]."""
        return self._users({"user": query.user, "history": _history(query, self._length)})

    def encode_items(self, items: Tensor) -> Tensor:
        """Item vectors [..., D]."""
        return self._items({"items": items.flatten()}).unflatten(0, items.shape)


class OnnxRanker:
    """A ``Ranker`` of a file; evidence is looked up by torch.

    Args:
        session: the model.
        retriever: whose score it may read.
        ranker: the one that was exported.
        history_length: L of the exported ranker.
    """

    def __init__(self, session: Session, retriever: Retriever, ranker: nn.Module, history_length: int) -> None:
        self._session, self._retriever, self._length = session, retriever, history_length
        self._evidence, self._reads_scores = evidence_parts(ranker), reads_scores(ranker)

    @torch.no_grad()
    def __call__(self, query: Query, items: Tensor) -> Tensor:
        """Logits [B, N]."""
        given = {"user": query.user, "history": _history(query, self._length), "time": query.time, "items": items}
        if self._reads_scores:
            vectors = self._retriever.encode_items(items)
            given["scores"] = pair_scores(self._retriever.encode_queries(query), vectors)
        if self._evidence:
            given["evidence"] = torch.cat([part(query, items) for part in self._evidence], -1)
        return self._session(given)


def run_by_onnx(recommender: TwoStageRecommender, directory: Path, version: str) -> TwoStageRecommender:
    """The same recommender, its models run from the files of an export.

    Args:
        recommender: of a bundle, on the CPU.
        directory: of the export.
        version: of the bundle; see ``Manifest.version``.

    Raises:
        ValueError: there is no export, it is damaged, of a newer format, or of another bundle.
    """
    file = directory / EXPORT_FILE
    try:
        contents = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read ({error}); write it with corral export") from error
    if contents["format_version"] > FORMAT_VERSION:
        raise ValueError(f"{file}: format {contents['format_version']} is newer than this corral reads")
    if contents["bundle"]["version"] != version:
        raise ValueError(
            f"{file}: was made of bundle {contents['bundle']['version']}, served is {version}; run corral export again"
        )
    verify_files(directory, Manifest(contents["corral"], {}, contents["bundle"], contents["files"]))
    sessions = {name: Session(directory / one["file"]) for name, one in contents["models"].items()}
    length = contents["history_length"]
    retriever = OnnxRetriever(sessions["user_tower"], sessions["item_tower"], length)
    ranker = None
    if isinstance(recommender.ranker, nn.Module):
        ranker = OnnxRanker(sessions["ranker"], retriever, recommender.ranker, length)
    return recommender.varied(ranker=ranker, num_candidates=recommender.num_candidates, retriever=retriever)


def _history(query: Query, length: int) -> Tensor:
    """[B, L], whatever length the query's has."""
    history = query.recent(length).history
    return functional.pad(history, (length - history.shape[1], 0))
