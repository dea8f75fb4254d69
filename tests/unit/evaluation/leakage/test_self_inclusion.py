"""Self-inclusion finds rows that are told their own answer, and is silent where they are not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from corral.data.as_of import AsOfRule, AsOfStatistics
from corral.data.batches import Batch
from corral.data.dataset import Dataset
from corral.data.history import last_items
from corral.data.split import Part, Split
from corral.evaluation.leakage.finding import Verdict
from corral.evaluation.leakage.inputs import RowInput
from corral.evaluation.leakage.self_inclusion import check_self_inclusion
from corral.ranking.evidence import CoVisitationEvidence
from corral.retrieval.co_visitation import CoVisitation

Answer = Callable[[Batch], Tensor]


def history(dataset: Dataset, split: Split) -> Answer:
    return lambda batch: batch.query.history


def co_visitation(dataset: Dataset, split: Split) -> Answer:
    evidence = CoVisitationEvidence(CoVisitation.of(dataset, split, window=5), recent=4)
    return lambda batch: evidence(batch.query, batch.item[:, None])


def as_of(dataset: Dataset, split: Split) -> Answer:
    assert dataset.events.value is not None
    labels = (dataset.events.value >= 3).astype(np.float32)
    statistics = AsOfStatistics.of(dataset, split, AsOfRule.of(split), labels=labels, impressions=True)
    return lambda batch: statistics(batch.query.user, batch.item[:, None], batch.query.time)


def others_count(dataset: Dataset, split: Split) -> Answer:
    """Train events of the item by other users."""
    events, train = dataset.events, split.rows(Part.TRAIN)
    counts = torch.from_numpy(np.bincount(events.item[train], minlength=dataset.n_items))
    key = np.sort(events.user[train].astype(np.int64) * dataset.n_items + events.item[train])

    def answer(batch: Batch) -> Tensor:
        asked = (batch.query.user * dataset.n_items + batch.item).numpy()
        own = np.searchsorted(key, asked, side="right") - np.searchsorted(key, asked)
        return counts[batch.item] - torch.from_numpy(own)

    return answer


def history_with_the_event(dataset: Dataset, split: Split) -> Answer:
    """Off by one: the history ends after the event."""
    events = dataset.events

    def answer(batch: Batch) -> Tensor:
        event = batch.query.event.numpy()
        user = batch.query.user.numpy()
        end = np.where(event >= 0, event + 1, events.offsets[user])
        return torch.from_numpy(last_items(events.item, events.offsets[user], end, 5))

    return answer


def rate_with_the_label(dataset: Dataset, split: Split) -> Answer:
    """Mean label of the item's train events, the row's own among them."""
    events, train = dataset.events, split.rows(Part.TRAIN)
    assert events.value is not None
    clicks = np.bincount(events.item[train], events.value[train] >= 3, minlength=dataset.n_items)
    counts = np.bincount(events.item[train], minlength=dataset.n_items)
    rate = torch.from_numpy(clicks / np.maximum(counts, 1))
    return lambda batch: rate[batch.item]


def co_visits_with_the_own(dataset: Dataset, split: Split) -> Answer:
    """w(latest item -> item) as counted, the user's own share left in."""
    table = CoVisitation.of(dataset, split, window=5)
    return lambda batch: table.lookup(batch.query.history[:, -1], batch.item)


def shown_with_the_own(dataset: Dataset, split: Split) -> Answer:
    """How often the item was shown, this time among them."""
    assert dataset.impressions is not None
    counts = torch.from_numpy(np.bincount(dataset.impressions.item, minlength=dataset.n_items))
    return lambda batch: counts[batch.item]


def same_moment(dataset: Dataset, split: Split) -> Answer:
    """Items of the user up to and with this moment: strictly before became at or before."""
    events = dataset.events
    span = int(events.time.max()) + 2
    keys = events.user.astype(np.int64) * span + events.time

    def answer(batch: Batch) -> Tensor:
        user = batch.query.user.numpy()
        end = np.searchsorted(keys, user * span + batch.query.time.numpy(), side="right")
        return torch.from_numpy(last_items(events.item, events.offsets[user], end, 5))

    return answer


CLEAN = (history, co_visitation, as_of, others_count)
LEAKS = (
    history_with_the_event,
    rate_with_the_label,
    co_visits_with_the_own,
    shown_with_the_own,
    same_moment,
)


def test_silent_where_no_row_is_told_its_answer(shop: Dataset, split: Split) -> None:
    rows = [RowInput(of.__name__, of) for of in CLEAN]
    found = check_self_inclusion(shop, split, rows, history_length=5, count=12, events=600, mark=3.0)
    assert [(finding.subject, finding.verdict) for finding in found] == [(of.__name__, Verdict.CLEAN) for of in CLEAN]
    # Clicks and impressions: 12 of train, 3 of the others, each.
    assert {finding.figure for finding in found} == {"0 of 36 events change their own input"}


@pytest.mark.parametrize("of", LEAKS)
def test_a_row_that_is_told_its_answer_is_found(shop: Dataset, split: Split, of: Callable[..., Answer]) -> None:
    rows = [RowInput("clean", history), RowInput("leak", of)]
    clean, leak = check_self_inclusion(shop, split, rows, history_length=5, count=12, events=600, mark=3.0)
    assert clean.verdict is Verdict.CLEAN
    assert leak.verdict is Verdict.LEAK
    assert int(leak.figure.split()[0]) >= 4
    assert "strictly" in leak.advice
