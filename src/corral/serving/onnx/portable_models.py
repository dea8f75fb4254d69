"""The three models of a bundle as functions of tensors alone: user tower, item tower, ranker.

Shape letters: B queries, N items per query, L history length, D vector size, E evidence.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from corral.data.batches import Query
from corral.ranking.evidence import Evidence, EvidenceRanker
from corral.ranking.ranker import FieldRanker
from corral.rar.as_of_neighbours import AsOfNeighbours
from corral.rar.neighbours import RecalledNeighbours
from corral.rar.ranker import RarRanker


class UserTower(nn.Module):
    """user [B], history [B, L] -> vectors [B, D]."""

    def __init__(self, retriever: Any) -> None:
        super().__init__()
        self.retriever = retriever

    def forward(self, user: Tensor, history: Tensor) -> Tensor:
        """See the class."""
        return self.retriever.encode_queries(_query(user, history, torch.zeros_like(user)))


class ItemTower(nn.Module):
    """items [M] -> vectors [M, D]."""

    def __init__(self, retriever: Any) -> None:
        super().__init__()
        self.retriever = retriever

    def forward(self, items: Tensor) -> Tensor:
        """See the class."""
        return self.retriever.encode_items(items)


class PortableRanker(nn.Module):
    """user [B], history [B, L], time [B], items [B, N], then what else it reads -> logits [B, N].

    Evidence is looked up in sparse tables, for which ONNX has no operators: whoever asks brings it. All that is
    learned, and RAR's tables of neighbours, are in the model.

    Attributes:
        inputs: names in the order of ``forward``'s arguments; after the first four "scores" [B, N], stage 1's, and
            "evidence" [B, N, E], if it reads them.

    Raises:
        ValueError: a part cannot be a function of tensors alone; the message names it.
    """

    def __init__(self, ranker: nn.Module) -> None:
        super().__init__()
        _check(ranker)
        self.inputs = ["user", "history", "time", "items"]
        self.evidence_sizes = [cast(Evidence, part).size for part in evidence_parts(ranker)]
        self._places = [_Place() for _ in self.evidence_sizes]
        self.ranker = _with_evidence(ranker, [_Given(place) for place in self._places])
        if reads_scores(ranker):
            self.inputs.append("scores")
        if self.evidence_sizes:
            self.inputs.append("evidence")

    def forward(self, *tensors: Tensor) -> Tensor:
        """See the class."""
        given = dict(zip(self.inputs, tensors, strict=True))
        if "evidence" in given:
            for place, value in zip(self._places, given["evidence"].split(self.evidence_sizes, dim=-1), strict=True):
                place.value = value
        query = _query(given["user"], given["history"], given["time"])
        scores = {"scores": given["scores"]} if "scores" in given else {}
        return self.ranker(query, given["items"], **scores)


class _Place:
    """Where evidence is put; no attribute of a module, which an export would put back as it was."""

    value: Tensor


class _Given(nn.Module):
    """Evidence that the caller brings."""

    def __init__(self, place: _Place) -> None:
        super().__init__()
        self.place = place

    def forward(self, query: Query, items: Tensor) -> Tensor:
        return self.place.value


def informed(ranker: object) -> EvidenceRanker | None:
    """The ranker that reads evidence and scores, if there is one."""
    inner = ranker.ranker if isinstance(ranker, RarRanker) else ranker
    return inner if isinstance(inner, EvidenceRanker) else None


def reads_scores(ranker: object) -> bool:
    """Whether a ranker reads the retriever's score."""
    inner = informed(ranker)
    return inner is not None and inner.factor is not None


def evidence_parts(ranker: object) -> list[nn.Module]:
    """The evidence that a ranker reads, in the order of the input "evidence"."""
    inner = informed(ranker)
    if inner is None:
        return []
    # What is read late is weighed by the correction, or not at all.
    parts = [inner.evidence, inner.late if inner.correction.fitted else None]
    return [part for part in parts if part is not None]


def _with_evidence(ranker: nn.Module, given: Sequence[nn.Module]) -> nn.Module:
    """The same ranker, its weights shared, with other evidence."""
    if isinstance(ranker, RarRanker):
        twin = _twin(ranker)
        twin.ranker = _with_evidence(ranker.ranker, given)
        return twin
    if not given:
        return ranker
    assert isinstance(ranker, EvidenceRanker), ranker
    twin, left = _twin(ranker), list(given)
    if twin.evidence is not None:
        twin.evidence = left.pop(0)
    if left:
        twin.late = left.pop(0)
    return twin


def _twin(module: nn.Module) -> Any:
    """The same module; its submodules can be exchanged without changing the first one's."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def _check(ranker: nn.Module) -> None:
    if isinstance(ranker, RarRanker) and isinstance(ranker.neighbours, RecalledNeighbours):
        raise ValueError(
            "RAR's recall items are chosen for every request from what its user recalls (pool: recalled), which ONNX "
            "cannot do; train with another pool, or serve with torch"
        )
    if isinstance(ranker, RarRanker) and isinstance(ranker.neighbours, AsOfNeighbours):
        raise ValueError(
            "RAR's look-alikes are searched for every request by its history (as_of_event: true), which ONNX cannot "
            "do; train without it, or serve with torch"
        )
    inner = informed(ranker) or ranker
    fields = inner.fields if isinstance(inner, EvidenceRanker | FieldRanker) else None
    if fields is not None and fields.request is not None:
        raise ValueError("the ranker reads request features, which the ONNX ranker has no inputs for: serve with torch")


def _query(user: Tensor, history: Tensor, time: Tensor) -> Query:
    return Query(user, torch.full_like(user, -1), history, time)
