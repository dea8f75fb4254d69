"""Worlds and pairs of stages for the baselines' tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from corral.corr.stages import Stages
from corral.data.batches import Batch, Query
from corral.data.dataset import Dataset
from corral.data.event_loader import EventLoader
from corral.data.examples import Examples
from corral.data.split import Part, time_cut
from corral.data.synthetic import checkerboard_world
from corral.ranking.ctr.deepfm import DeepFM
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker
from corral.retrieval.matrix_factorization import MatrixFactorization


def small_stages(users: int, items: int, *, positions: int = 0) -> Stages:
    """Matrix factorization and a DeepFM of ids; ``users`` and ``items`` count the two reserved rows."""
    torch.manual_seed(0)
    retriever = MatrixFactorization(users, items, size=8, user_dropout=0.0)
    fields = Fields(users, items, field_size=8, pool_history=False)
    ranker = FieldRanker(
        fields, DeepFM(8, fields.num_context_fields, fields.num_item_fields, hidden=(16,)), embedding_dropout=0.1
    )
    return Stages(retriever, ranker, torch.arange(2, items), positions=positions)


def queries(users: torch.Tensor) -> Query:
    """Queries without a history."""
    count = len(users)
    return Query(users, torch.full((count,), -1), torch.zeros(count, 3, dtype=torch.int64), torch.zeros_like(users))


@pytest.fixture
def batch() -> Batch:
    """Six examples for :func:`stages`."""
    users = torch.tensor([2, 3, 4, 5, 6, 2])
    return Batch(queries(users), torch.tensor([2, 5, 7, 11, 4, 3]), torch.ones(6))


@pytest.fixture
def stages() -> Stages:
    """Both stages, seven user rows and twelve item rows."""
    return small_stages(7, 12)


@dataclass(frozen=True)
class Planted:
    """A checkerboard world: each user likes the items of one group of ten.

    Attributes:
        stages: untrained.
        loader: of its events.
        liked: [users, items] bool: what the plan says.
        users: their rows.
    """

    stages: Stages
    loader: EventLoader
    liked: torch.Tensor
    users: torch.Tensor

    def shares(self) -> tuple[float, float, float]:
        """Share of liked items among the retriever's first 10 of 60, the ranker's first 10 of 60, and the first
        5 of the ranker among the retriever's first 20; without training, about 1/6."""
        self.stages.eval()
        query, catalogue = queries(self.users), self.stages.catalogue
        with torch.no_grad():
            items = catalogue.expand(len(self.users), -1)
            scores, logits = self.stages.score(self.stages.encode(Batch(query, items[:, 0], items[:, 0])), items)
        recalled = scores.topk(20, dim=1).indices
        shown = recalled.gather(1, logits.gather(1, recalled).topk(5, dim=1).indices)

        def share(found: torch.Tensor) -> float:
            return float(self.liked.gather(1, found).float().mean())

        return share(recalled[:, :10]), share(logits.topk(10, dim=1).indices), share(shown)


@pytest.fixture
def planted(tmp_path: Path) -> Callable[..., Planted]:
    """Makes a new, untrained one."""

    def make(batch_size: int = 128) -> Planted:
        world = checkerboard_world(150, 60, groups=6, length=15, noise=0.1, seed=1)
        dataset = Dataset.write(tmp_path / "data", world.interactions, name="checkerboard")
        examples = Examples.of(dataset, time_cut(dataset, 0.03, 0.03), Part.TRAIN)
        loader = EventLoader(examples, history_length=3, batch_size=batch_size, seed=0)
        stages = small_stages(dataset.n_users, dataset.n_items)
        users = torch.arange(2, dataset.n_users)
        user_ids = np.array(dataset.users.external(users.numpy()))
        item_ids = np.array(dataset.items.external(stages.catalogue.numpy()))
        return Planted(stages, loader, torch.tensor(world.likes(user_ids[:, None], item_ids[None])), users)

    return make
