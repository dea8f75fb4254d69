"""A recommender with known answers, for the tests of serving: tiny models that only look things up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from corral.data.batches import Query
from corral.data.dataset import EventLog
from corral.data.features import FeatureTable
from corral.data.vocabulary import Vocabulary
from corral.retrieval.index import ExactIndex
from corral.retrieval.popularity import PopularityChannel
from corral.serving.histories import UserHistories
from corral.serving.module_spec import ModuleSpec
from corral.serving.recommender import TwoStageRecommender
from corral.serving.serving_tables import ServingTables


class MeanRetriever(nn.Module):
    """Query = mean vector of the history; knows items by their id alone."""

    def __init__(self, num_items: int, size: int = 4) -> None:
        super().__init__()
        self.table = nn.Embedding(num_items, size)
        self.dropout = nn.Dropout(0.5)
        self.calls = 0

    def encode_queries(self, query: Query) -> Tensor:
        self.calls += 1
        seen = (query.history != 0).unsqueeze(2)
        total = (self.table(query.history) * seen).sum(1)
        return self.dropout(total / seen.sum(1).clamp(min=1))

    def encode_items(self, items: Tensor) -> Tensor:
        return self.table(items)


class BiasRanker(nn.Module):
    """Logit = a number of the item + a number of the user."""

    def __init__(self, num_users: int, num_items: int) -> None:
        super().__init__()
        self.user = nn.Embedding(num_users, 1)
        self.item = nn.Embedding(num_items, 1)
        self.calls = 0

    def forward(self, query: Query, items: Tensor) -> Tensor:
        self.calls += 1
        return self.item(items).squeeze(2) + self.user(query.user)


@dataclass
class SmallSystem:
    """The parts, and numpy copies of what decides the answers."""

    tables: ServingTables
    retriever: MeanRetriever
    ranker: BiasRanker
    counts: np.ndarray
    index: ExactIndex
    popularity: PopularityChannel

    def recommender(self, *, ranker: bool = True, **settings: object) -> TwoStageRecommender:
        specs = {"retriever": ModuleSpec("mean", {"size": 4}), "ranker": ModuleSpec("bias")}
        return TwoStageRecommender(
            self.tables,
            self.retriever,
            self.index,
            self.popularity,
            ranker=self.ranker if ranker else None,
            specs=specs,
            **settings,  # type: ignore[arg-type]
        )

    def build(self, spec: ModuleSpec, tables: ServingTables) -> nn.Module:
        if spec.kind == "mean":
            return MeanRetriever(len(tables.items), **spec.settings)
        assert spec.kind == "bias", spec
        return BiasRanker(len(tables.users), len(tables.items))


def event_log(events: list[tuple[int, int, int]], n_users: int) -> EventLog:
    """A log of (user row, item row, time), sorted."""
    rows = np.array(sorted(events, key=lambda event: (event[0], event[2])), dtype=np.int64).reshape(-1, 3)
    offsets = np.searchsorted(rows[:, 0], np.arange(n_users + 1))
    return EventLog(
        rows[:, 0].astype(np.int32),
        rows[:, 1].astype(np.int32),
        rows[:, 2].copy(),
        np.zeros(len(rows), dtype=np.int32),
        offsets,
    )


def small_system(n_users: int = 8, n_items: int = 30, seed: int = 0) -> SmallSystem:
    """Users u00, u01 ... (u00 without events, the others with 1 to 9), items i00, i01 ..."""
    random = np.random.default_rng(seed)
    users = Vocabulary.of(pl.Series([f"u{number:02d}" for number in range(n_users)]))
    items = Vocabulary.of(pl.Series([f"i{number:02d}" for number in range(n_items)]))
    events = []
    for user in range(3, len(users)):
        for time in range(int(random.integers(1, 10))):
            events.append((user, int(random.integers(2, len(items))), 10 * time + user))
    log = event_log(events, len(users))
    generator = torch.Generator().manual_seed(seed)
    retriever = MeanRetriever(len(items))
    ranker = BiasRanker(len(users), len(items))
    with torch.no_grad():
        for parameter in (*retriever.parameters(), *ranker.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    rows = torch.arange(2, len(items))
    counts = np.bincount(log.item, minlength=len(items))
    return SmallSystem(
        ServingTables(users, items, FeatureTable(len(users)), FeatureTable(len(items)), UserHistories.of(log)),
        retriever,
        ranker,
        counts,
        ExactIndex(retriever.encode_items(rows), rows),
        PopularityChannel(torch.from_numpy(counts)),
    )
