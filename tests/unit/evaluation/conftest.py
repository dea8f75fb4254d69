"""A small world for evaluation: queries with targets, a table of retriever scores, a table of logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from corral.data.batches import Query
from corral.data.candidates import Candidates
from corral.data.targets import TargetBatch
from corral.evaluation.metrics import ranked


@dataclass
class TableTargets:
    """What evaluation needs of Targets: its length and its batches."""

    target_lists: list[list[int]]
    history: Tensor
    user: np.ndarray
    exclude: Tensor

    def __len__(self) -> int:
        return len(self.target_lists)

    def batches(self, size: int) -> Iterator[TargetBatch]:
        for start in range(0, len(self), size):
            yield self.batch(np.arange(start, min(start + size, len(self))))

    def batch(self, index: np.ndarray) -> TargetBatch:
        lists = [self.target_lists[i] for i in index]
        return TargetBatch(
            Query(
                torch.from_numpy(self.user[index]),
                torch.from_numpy(index),
                self.history[index],
                torch.from_numpy(100 + index),
            ),
            self.exclude[index],
            torch.tensor([item for row in lists for item in row], dtype=torch.int64),
            torch.tensor([i for i, row in enumerate(lists) for _ in row], dtype=torch.int64),
            index,
            self.history[index],
        )


@dataclass
class TableChannel:
    """Recalls by a table of scores [Q, M]; row 2 + j is column j. Queries know their row by ``event``."""

    scores: Tensor
    name: str = "table"
    asked: int = 0

    def recall(self, query: Query, k: int, exclude: Tensor | None = None, allow: Tensor | None = None) -> Candidates:
        self.asked += 1
        scores = self.scores[query.event].clone()
        items = torch.arange(2, scores.shape[1] + 2).expand_as(scores).clone()
        if exclude is not None:
            items[(items[:, :, None] == exclude[:, None, :]).any(-1)] = 0
        return ranked(items, scores).top(k)


@dataclass
class TableRanker:
    """Logits from a table [Q, M]."""

    logits: Tensor

    def __call__(self, query: Query, items: Tensor) -> Tensor:
        return self.logits[query.event].gather(1, (items - 2).clamp(min=0))


class World:
    """Makes the three of them."""

    targets = TableTargets
    channel = TableChannel
    ranker = TableRanker

    @staticmethod
    def make_targets(
        lists: list[list[int]], history: Tensor | None = None, user: list[int] | None = None
    ) -> TableTargets:
        n = len(lists)
        return TableTargets(
            lists,
            torch.zeros(n, 4, dtype=torch.int64) if history is None else history,
            np.arange(2, n + 2) if user is None else np.array(user),
            torch.zeros(n, 0, dtype=torch.int64),
        )

    @classmethod
    def random(
        cls, seed: int = 0, queries: int = 60, items: int = 40
    ) -> tuple[TableTargets, TableChannel, TableRanker]:
        """Baskets of 1 to 4 targets, scores and logits that know a little of them, with ties."""
        generator = np.random.default_rng(seed)
        lists = [
            sorted(generator.choice(np.arange(2, items + 2), generator.integers(1, 5), replace=False).tolist())
            for _ in range(queries)
        ]
        scores = torch.from_numpy(generator.integers(0, 12, (queries, items)).astype(np.float32))
        logits = torch.from_numpy(generator.integers(0, 30, (queries, items)).astype(np.float32))
        for row, basket in enumerate(lists):
            for item in basket:
                scores[row, item - 2] += 4
                logits[row, item - 2] += 10
        history = torch.from_numpy(generator.integers(0, items + 2, (queries, 6)))
        history[history == 1] = 0
        users = generator.integers(2, 2 + queries // 2, queries).tolist()
        return cls.make_targets(lists, history, users), cls.channel(scores), cls.ranker(logits)


@pytest.fixture
def world() -> type[World]:
    return World
