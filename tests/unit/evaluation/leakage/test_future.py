"""Future corruption finds what looks ahead, and is silent on what does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from corral.data.as_of import AsOfRule, AsOfStatistics
from corral.data.batches import Batch
from corral.data.dataset import Dataset
from corral.data.split import Part, Split, time_cut
from corral.evaluation.leakage.finding import Finding, Verdict
from corral.evaluation.leakage.future import check_future
from corral.evaluation.leakage.inputs import RowInput, TableInput, differing
from corral.ranking.evidence import CoVisitationEvidence
from corral.retrieval.co_visitation import CoVisitation

Of = Callable[[Dataset, Split], Callable[[Batch], Tensor]]


def history(dataset: Dataset, split: Split) -> Callable[[Batch], Tensor]:
    return lambda batch: batch.query.history


def co_visitation(dataset: Dataset, split: Split) -> Callable[[Batch], Tensor]:
    evidence = CoVisitationEvidence(CoVisitation.of(dataset, split, window=5), recent=4)
    return lambda batch: evidence(batch.query, batch.item[:, None])


def as_of(dataset: Dataset, split: Split) -> Callable[[Batch], Tensor]:
    assert dataset.events.value is not None
    labels = (dataset.events.value >= 3).astype(np.float32)
    statistics = AsOfStatistics.of(dataset, split, AsOfRule.of(split), labels=labels, impressions=True)
    return lambda batch: statistics(batch.query.user, batch.item[:, None], batch.query.time)


def lookup(table: np.ndarray) -> Callable[[Batch], Tensor]:
    return lambda batch: torch.from_numpy(table)[batch.item]


def popularity_of(parts: tuple[Part, ...]) -> Of:
    """Counts of events of some parts."""

    def of(dataset: Dataset, split: Split) -> Callable[[Batch], Tensor]:
        return lookup(np.bincount(dataset.events.item[np.isin(split.part, parts)], minlength=dataset.n_items))

    return of


def like_rate(dataset: Dataset, split: Split) -> Callable[[Batch], Tensor]:
    """Mean value of an item over everything."""
    events = dataset.events
    assert events.value is not None
    counts = np.bincount(events.item, minlength=dataset.n_items)
    return lookup(np.bincount(events.item, events.value, minlength=dataset.n_items) / np.maximum(counts, 1))


def next_item(dataset: Dataset, split: Split) -> Callable[[Batch], Tensor]:
    """The user's latest item of all, whenever that was."""
    last = np.zeros(dataset.n_users, dtype=np.int64)
    last[dataset.events.user] = dataset.events.item
    return lambda batch: torch.from_numpy(last)[batch.query.user]


def shown_counts(dataset: Dataset, split: Split) -> Callable[[Batch], Tensor]:
    """How often an item is ever shown."""
    assert dataset.impressions is not None
    return lookup(np.bincount(dataset.impressions.item, minlength=dataset.n_items))


CLEAN = {"history": history, "co-visitation": co_visitation, "as of": as_of, "popularity": popularity_of((Part.TRAIN,))}
LEAKS: dict[str, Of] = {
    "all counts": popularity_of(tuple(Part)),
    "like rate": like_rate,
    "next item": next_item,
    "shown counts": shown_counts,
}


def check(dataset: Dataset, split: Split, inputs: dict[str, Of], tables: tuple[TableInput, ...] = ()) -> list[Finding]:
    rows = [RowInput(name, of) for name, of in inputs.items()]
    return check_future(dataset, split, rows, tables, history_length=5, mark=3.0, rows=300)


def test_silent_where_nothing_looks_ahead(shop: Dataset, split: Split) -> None:
    tables = (TableInput("counts", lambda dataset, split: [split.train_counts(dataset)]),)
    found = check(shop, split, CLEAN, tables)
    assert [(finding.subject, finding.verdict) for finding in found] == [
        *((name, Verdict.CLEAN) for name in CLEAN),
        ("counts", Verdict.CLEAN),
    ]
    assert found[-1].figure == f"0 of {shop.n_items} entries change"
    assert found[0].figure.startswith("0 of ")
    assert found[0].figure.count(" rows") == 2
    assert not any(finding.advice for finding in found)


@pytest.mark.parametrize("name", LEAKS)
def test_what_looks_ahead_is_found(shop: Dataset, split: Split, name: str) -> None:
    (finding,) = check(shop, split, {name: LEAKS[name]})
    assert finding.verdict is Verdict.LEAK
    assert "train rows change" in finding.figure
    assert "e.g. user " in finding.figure
    assert "train events alone" in finding.advice


def test_the_validation_part_may_not_know_the_test(shop: Dataset) -> None:
    """Train knows train alone, validation knows all: found at the validation rows, and only there."""

    def of(dataset: Dataset, split: Split) -> Callable[[Batch], Tensor]:
        train, everything = (popularity_of(parts)(dataset, split) for parts in ((Part.TRAIN,), tuple(Part)))
        cut = int(str(split.facts["valid_from"]))
        return lambda batch: torch.where(batch.query.time < cut, train(batch), everything(batch))

    (finding,) = check(shop, time_cut(shop), {"late": of})
    assert finding.verdict is Verdict.LEAK
    assert "valid rows change" in finding.figure
    assert "train rows" not in finding.figure


@pytest.mark.parametrize("kind", ["counts", "length"])
def test_a_table_of_everything_is_found(shop: Dataset, split: Split, kind: str) -> None:
    def of(dataset: Dataset, split: Split) -> list[np.ndarray]:
        everything = np.asarray(dataset.events.item)
        return [everything if kind == "length" else np.bincount(everything, minlength=dataset.n_items)]

    (finding,) = check(shop, split, {}, (TableInput(kind, of),))
    assert finding.verdict is Verdict.LEAK
    assert "train events alone" in finding.advice


def test_rounding_is_no_leak_and_nan_equals_nan(shop: Dataset) -> None:
    rounding = iter([0.0, 1e-9, 0.0, 1e-9])

    def of(dataset: Dataset, split: Split) -> Callable[[Batch], Tensor]:
        step = next(rounding)
        return lambda batch: torch.stack([batch.item.double() + step, torch.full((len(batch),), torch.nan)], 1)

    (finding,) = check(shop, time_cut(shop), {"noise": of})
    assert finding.verdict is Verdict.CLEAN


def test_nothing_asked_differs_nowhere() -> None:
    assert differing(np.zeros((0, 3)), np.zeros((0, 3))).tolist() == []
    assert differing(np.zeros(0), np.zeros(0)).tolist() == []
