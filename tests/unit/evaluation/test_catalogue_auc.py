"""AUC of the whole funnel over the catalogue, against a list written out item by item."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from corral.data.batches import Query
from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.data.split import Part, time_cut
from corral.data.targets import targets
from corral.evaluation.catalogue_auc import catalogue_auc
from corral.evaluation.mixture import Mixture
from corral.evaluation.result import Stage
from corral.retrieval.channels import RetrieverChannel
from corral.retrieval.index import ExactIndex

N = 6


class Vectors:
    """A retriever of made-up vectors."""

    def __init__(self, users: int, items: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.users, self.items = (torch.randn(rows, 4, generator=generator) for rows in (users, items))

    def encode_queries(self, query: Query) -> Tensor:
        return self.users[query.user]


class Noise(torch.nn.Module):
    def forward(self, query: Query, items: Tensor) -> Tensor:
        return torch.sin(query.user[:, None] * 7.0 + items * 3.0)


@pytest.mark.parametrize("served", list(Stage))
def test_it_is_the_auc_of_the_list_written_out(tmp_path: Path, served: Stage) -> None:
    random = np.random.default_rng(1)
    frame = pl.DataFrame(
        {
            "user_id": random.integers(0, 12, 260),
            "item_id": random.integers(0, 30, 260),
            "timestamp": np.sort(random.integers(0, 60, 260)),  # several at a time: baskets
        }
    )
    dataset = Dataset.write(tmp_path / "data", Interactions.of(frame, source="made up"))
    split = time_cut(dataset)
    found = targets(dataset, split, Part.TEST, history_length=5)
    vectors = Vectors(dataset.n_users, dataset.n_items)
    rows = torch.from_numpy(split.catalogue(dataset))[1:]  # one item is in no list
    channel = RetrieverChannel(vectors, ExactIndex(vectors.items[rows], rows))
    ranker, mixture = Noise(), Mixture(0.4)
    measured = catalogue_auc(
        found,
        channel,
        None if served is Stage.RETRIEVER else ranker,
        mixture if served is Stage.FUSED else None,
        served,
        num_candidates=N,
        num_items=len(rows),
        batch_size=5,
    )
    (batch,) = list(found.batches(10**6))
    values = []
    for query in range(len(found)):
        hidden = set(batch.exclude[query].tolist())
        scores = vectors.users[batch.query.user[query]] @ vectors.items.T
        order = sorted((row for row in rows.tolist() if row not in hidden), key=lambda row: -float(scores[row]))
        if served is not Stage.RETRIEVER:
            some = torch.tensor(order[:N])[None]
            one = Query(*(part[query : query + 1] for part in (batch.query.user, batch.query.event)), some, some[:, 0])
            logits = ranker(one, some)
            final = logits if served is Stage.RANKER else mixture(scores[some], logits, some > 0)
            order[:N] = some[0][final[0].argsort(descending=True)].tolist()
        wanted = set(batch.item[batch.owner == query].tolist())
        others = [row not in wanted for row in order]
        for target in wanted:
            above = sum(others[: order.index(target)]) if target in order else sum(others)
            values.append(1 - above / sum(others))
    assert measured == pytest.approx(float(np.mean(values)), abs=1e-9)
    assert 0.3 < measured < 0.7
