"""What every evidence owes the ranker that reads it, and readers the data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor, nn

from corral.data.as_of import AsOfRule, AsOfStatistics
from corral.data.batches import Query
from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.data.readers import tabular
from corral.data.split import Split, time_cut
from corral.data.synthetic import markov_world
from corral.ranking.as_of_evidence import AsOfEvidence
from corral.ranking.evidence import CoVisitationEvidence
from corral.ranking.joined_evidence import JoinedEvidence
from corral.ranking.linear_evidence import LinearEvidence
from corral.retrieval.co_visitation import CoVisitation
from corral.retrieval.linear_items import LinearItems
from corral.testing.evidence import CHECKS, ITEMS, USERS, check_evidence
from corral.testing.readers import check_reader


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Split]:
    world = markov_world(USERS - 2, ITEMS - 2, length=20)
    dataset = Dataset.write(tmp_path_factory.mktemp("evidence") / "data", world.interactions)
    assert (dataset.n_users, dataset.n_items) == (USERS, ITEMS)
    return dataset, time_cut(dataset)


def co_visitation(dataset: Dataset, split: Split) -> nn.Module:
    return CoVisitationEvidence(CoVisitation.of(dataset, split, window=5), recent=3)


def linear(dataset: Dataset, split: Split) -> nn.Module:
    return LinearEvidence(LinearItems.of(dataset, split))


def as_of(dataset: Dataset, split: Split) -> nn.Module:
    rule = AsOfRule.of(split)
    return AsOfEvidence(AsOfStatistics.of(dataset, split, rule, labels=None, impressions=False, recent=3))


EVIDENCE: dict[str, Callable[[Dataset, Split], nn.Module]] = {
    "co-visitation": co_visitation,
    "linear": linear,
    "as-of": as_of,
    "joined": lambda dataset, split: JoinedEvidence([co_visitation(dataset, split), linear(dataset, split)]),
}


@pytest.mark.parametrize("name", EVIDENCE)
@pytest.mark.parametrize("check", CHECKS)
def test_contract(check: Callable[[Any], None], name: str, data: tuple[Dataset, Split]) -> None:
    check(EVIDENCE[name](*data))


class Wrong(nn.Module):
    """The row of the item, with something broken in it."""

    size = 1

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.weight = fault, nn.Parameter(torch.ones(())) if fault == "learned" else torch.ones(())

    def forward(self, query: Query, items: Tensor) -> Tensor:
        found = items[..., None].float() / 10
        if self.fault == "rank in the list":
            return found.argsort(1).argsort(1).float()
        if self.fault == "not finite":
            return found.log()
        if self.fault == "counts padding":
            return found + query.history.shape[1]
        return found if self.fault != "learned" else found.detach() * self.weight.detach()


@pytest.mark.parametrize(
    ("fault", "promise"),
    [
        ("rank in the list", "does not depend on the other items"),
        ("not finite", "evidence is finite"),
        ("counts padding", "more padding changes nothing"),
        ("learned", "no parameters"),
    ],
)
def test_the_checks_reject_wrong_evidence(fault: str, promise: str) -> None:
    check_evidence(Wrong(""))
    with pytest.raises(AssertionError, match=promise):
        check_evidence(Wrong(fault))


# Readers


def table(**columns: list[Any]) -> pl.DataFrame:
    return pl.DataFrame({"user_id": [1, 1, 2], "item_id": ["a", "b", "a"], "timestamp": [3, 4, 5], **columns})


def test_a_reader(tmp_path: Path) -> None:
    table().write_csv(tmp_path / "events.csv")
    features = pl.DataFrame({"item_id": ["a", "b"], "shelf": ["x", "y"]})
    check_reader(lambda: tabular.read(tmp_path / "events.csv", item_features=features))


@pytest.mark.parametrize(
    ("read", "promise"),
    [
        (lambda: table(), "gives Interactions, not DataFrame"),
        (lambda: Interactions(table(timestamp=[-3, 4, 5]), source="made up"), "which says: .*timestamp"),
    ],
)
def test_the_check_rejects_a_wrong_reader(read: Callable[[], Any], promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        check_reader(read)


def test_the_check_rejects_a_reader_that_changes_its_mind() -> None:
    times = iter([3, 9])

    def read() -> Interactions:
        return Interactions.of(table(timestamp=[next(times), 4, 5]), source="made up")

    with pytest.raises(AssertionError, match="reading twice"):
        check_reader(read)
