"""A small judged system: a data set with titles, vectors that nobody trained, an evaluation, a report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from corral.data.batches import Query
from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.data.split import Part, Split, time_cut
from corral.data.targets import Targets, targets
from corral.evaluation.calibration import fit_calibration
from corral.evaluation.evaluate import evaluate
from corral.evaluation.mixture import Mixture
from corral.evaluation.result import Evaluation, Stage
from corral.report.data_summary import data_summary
from corral.report.example_lists import example_lists
from corral.report.run_report import ClickResults, RunReport
from corral.report.stage_probe import stage_probe
from corral.retrieval.channels import RetrieverChannel
from corral.retrieval.index import ExactIndex

WICKED = "</script><script>alert(1)</script><!-- & \u2028 ' \""
N = 15


class LastItem(nn.Module):
    """A retriever: the user is the last item."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(rows, 6)
        nn.init.normal_(self.vectors.weight, generator=torch.Generator().manual_seed(0))

    def encode_queries(self, query: Query) -> Tensor:
        return self.vectors(query.history[:, -1])

    def encode_items(self, items: Tensor) -> Tensor:
        return self.vectors(items)


class RowOrder(nn.Module):
    """A ranker: items with small rows, which are the popular ones, first."""

    def forward(self, query: Query, items: Tensor) -> Tensor:
        return -items.float() / 10.0


@dataclass(frozen=True)
class Judged:
    dataset: Dataset
    split: Split
    targets: Targets
    channel: RetrieverChannel
    evaluation: Evaluation


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rng, n = np.random.default_rng(1), 2_000
    items = np.minimum(rng.geometric(0.08, n), 40)
    frame = pl.DataFrame(
        {
            "user_id": rng.integers(0, 60, n),
            "item_id": [f"i{item:02}" for item in items],
            "timestamp": np.sort(rng.integers(1_600_000_000, 1_610_000_000, n)),
        }
    )
    names = sorted(set(frame["item_id"]))
    titles = ["" if place % 3 == 0 else f"{WICKED} {name}" for place, name in enumerate(names)]
    features = pl.DataFrame({"item_id": names, "title": titles})
    interactions = Interactions.of(
        frame, item_features=features, text_columns=["title"], source="<made up>", licence="none & never"
    )
    return Dataset.write(tmp_path_factory.mktemp("data") / "shop", interactions, name="shop")


def judged(dataset: Dataset, ranker: nn.Module | None, served: Stage) -> Judged:
    split = time_cut(dataset)
    found = targets(dataset, split, Part.TEST, history_length=6, repeats=True)
    rows = torch.from_numpy(split.catalogue(dataset))
    retriever = LastItem(dataset.n_items)
    with torch.no_grad():
        channel = RetrieverChannel(retriever, ExactIndex(retriever.encode_items(rows), rows))
    evaluation = evaluate(
        found,
        channel,
        ranker=ranker,
        num_candidates=N,
        mixture=Mixture(0.5) if served is Stage.FUSED else None,
        serve_by=served,
        item_counts=split.train_counts(dataset),
        catalogue=rows.numpy(),
        protocol={"split": split.name, "dataset": "shop <b>", "part": "test"},
        recall_cutoffs=(10, 30),
    )
    return Judged(dataset, split, found, channel, evaluation)


def described(
    system: Judged, ranker: nn.Module | None, logs: dict[str, list[dict[str, float]]], clicks: bool
) -> RunReport:
    rng = np.random.default_rng(2)
    logits = rng.normal(size=500)
    labels = (rng.random(500) < 1 / (1 + np.exp(-2 * logits))).astype(np.float32)
    mixture = Mixture(0.5) if system.evaluation.served is Stage.FUSED else None
    return RunReport(
        name="a <run>",
        evaluation=system.evaluation,
        data=data_summary(system.dataset, system.split),
        logs=logs,
        watched={"retriever": "ndcg@10", "ranker": "ndcg@10"},
        examples=example_lists(
            system.dataset,
            system.targets,
            system.evaluation,
            system.channel,
            ranker,  # type: ignore[arg-type]
            mixture,
        ),
        probe=None
        if ranker is None
        else stage_probe(system.targets, system.channel, ranker, mixture, system.evaluation.served, N),  # type: ignore[arg-type]
        clicks=ClickResults(labels, logits, fit_calibration(logits, labels)) if clicks else None,
        settings={"seed": 0, "retriever": {"kind": "last", "size": 6}},
        settings_text="seed: 0\nnote: </code><script>\n",
        versions={"corral": "0"},
        seconds={"retriever": 1.5, "recall": 0.25, "evaluate": 200.0},
    )


def log(epochs: int) -> list[dict[str, float]]:
    return [
        {"epoch": e, "step": 9 * e, "seconds": 1.0, "loss/total": 2.0 - e / 9, "ndcg@10": 0.1 + e % 3 / 50}
        for e in range(epochs)
    ]


@pytest.fixture(scope="session")
def full(dataset: Dataset) -> RunReport:
    """Both stages fused, three epochs, click labels."""
    ranker = RowOrder()
    return described(judged(dataset, ranker, Stage.FUSED), ranker, {"retriever": log(3), "ranker": log(3)}, clicks=True)


@pytest.fixture(scope="session")
def bare(dataset: Dataset) -> RunReport:
    """Stage 1 alone, one epoch, no click labels."""
    report = described(judged(dataset, None, Stage.RETRIEVER), None, {"retriever": log(1)}, clicks=False)
    return replace(report, name="bare")


@pytest.fixture(scope="session")
def system(dataset: Dataset) -> Judged:
    return judged(dataset, RowOrder(), Stage.RANKER)


@pytest.fixture(scope="session")
def judge(dataset: Dataset) -> Callable[[nn.Module | None, Stage], Judged]:
    """Judges the system with another ranker, or another order served."""
    return lambda ranker, served: judged(dataset, ranker, served)


@pytest.fixture
def untitled(tmp_path: Path) -> RunReport:
    """Nothing trained, no titles, no times, no examples to speak of."""
    rng = np.random.default_rng(3)
    frame = pl.DataFrame({"user_id": rng.integers(0, 20, 300), "item_id": rng.integers(0, 25, 300)})
    interactions = Interactions.of(frame.with_columns(timestamp=pl.int_range(300)), time_unit="days", source="made up")
    dataset = Dataset.write(tmp_path / "plain", interactions)
    return described(judged(dataset, None, Stage.RETRIEVER), None, {}, clicks=False)
