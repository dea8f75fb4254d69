"""As-of statistics as ranker inputs: scaled, of the query's own time, without gradient, and beside other evidence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corral.data.as_of import AsOfStatistics
from corral.data.batches import Query
from corral.data.features import FeatureTable
from corral.ranking.as_of_evidence import AsOfEvidence
from corral.ranking.ctr.dcnv2 import DCNV2
from corral.ranking.evidence import CoVisitationEvidence, EvidenceRanker
from corral.ranking.fields import Fields
from corral.ranking.joined_evidence import JoinedEvidence
from corral.ranking.ranker import FieldRanker
from corral.retrieval.co_visitation import CoVisitation

USERS = 8


def statistics(table: FeatureTable, *, labelled: bool = True) -> AsOfStatistics:
    random = np.random.default_rng(0)
    user, item, time = (torch.from_numpy(random.integers(low, high, 200)) for low, high in ((2, 8), (2, 6), (0, 10**7)))
    label = torch.from_numpy(random.integers(0, 2, 200))
    return AsOfStatistics.of_log(
        user, item, time, label if labelled else None, table, num_users=USERS, num_items=table.rows
    )


def co_visitation(table: FeatureTable) -> CoVisitation:
    some = torch.tensor([2, 3, 4])
    offsets = torch.tensor([0, 0, 0, 3, 3, 3, 3, 3, 3])
    return CoVisitation(some, some.flip(0), torch.ones(3), some, offsets, num_items=table.rows, window=2)


ASKED = Query(
    torch.tensor([2, 3, 1]),
    torch.full((3,), -1),
    torch.tensor([[0, 2], [4, 5], [0, 0]]),
    torch.tensor([10**6, 5 * 10**6, 2 * 10**7]),
)
CANDIDATES = torch.tensor([[2, 3, 4, 0], [5, 4, 1, 3], [2, 3, 4, 5]])


@pytest.mark.parametrize("labelled", [True, False])
def test_statistics_of_the_querys_time_at_unit_scale(item_features: FeatureTable, labelled: bool) -> None:
    known = statistics(item_features, labelled=labelled)
    evidence = AsOfEvidence(known)
    found, raw = evidence(ASKED, CANDIDATES), known(ASKED.user, CANDIDATES, ASKED.time)
    assert found.shape == (3, 4, evidence.size)
    assert evidence.size == known.size
    for column, name in enumerate(known.names):
        scale = 0.25 if "count" in name else 0.1 if name.endswith(("age", "idle")) else 4 if "residual" in name else 1
        torch.testing.assert_close(found[..., column], scale * raw[..., column], msg=name)
    assert not found.requires_grad
    assert 0.05 < float(found.std(unbiased=False)) < 3
    earlier = Query(ASKED.user, ASKED.event, ASKED.history, torch.zeros(3, dtype=torch.int64))
    assert float(evidence(earlier, CANDIDATES).abs().sum()) == 0.0, "nothing is known before the first event"


def test_training_in_low_precision_reads_the_numbers_that_are_served(item_features: FeatureTable) -> None:
    evidence = AsOfEvidence(statistics(item_features))
    with torch.autocast("cpu", torch.bfloat16):
        low = evidence(ASKED, CANDIDATES)
    torch.testing.assert_close(low, evidence(ASKED, CANDIDATES), rtol=0, atol=0)


def test_joined_evidence_is_its_parts_side_by_side(item_features: FeatureTable) -> None:
    one, other = (
        CoVisitationEvidence(co_visitation(item_features), recent=2),
        AsOfEvidence(statistics(item_features)),
    )
    both = JoinedEvidence([one, other])
    assert both.size == one.size + other.size
    wanted = torch.cat([one(ASKED, CANDIDATES), other(ASKED, CANDIDATES)], -1)
    torch.testing.assert_close(both(ASKED, CANDIDATES), wanted, rtol=0, atol=0)
    with pytest.raises(ValueError, match="no evidence"):
        JoinedEvidence([])


def ranker(table: FeatureTable) -> EvidenceRanker:
    evidence = AsOfEvidence(statistics(table))
    fields = Fields(USERS, table.rows, item_features=table, field_size=4)
    ctr = DCNV2(4, fields.num_context_fields, fields.num_item_fields, hidden=(6,), num_extra=evidence.size)
    return EvidenceRanker(FieldRanker(fields, ctr, history_length=2), evidence)


def test_a_logit_reads_the_statistics_and_no_other_item(item_features: FeatureTable) -> None:
    model = ranker(item_features).eval()
    assert model.factor is None
    logits = model(ASKED, CANDIDATES)
    later = Query(ASKED.user, ASKED.event, ASKED.history, ASKED.time + 10**6)
    assert not torch.equal(model(later, CANDIDATES), logits)
    alone = torch.cat([model(ASKED, one) for one in CANDIDATES.split(1, dim=1)], 1)
    torch.testing.assert_close(alone, logits)


def test_the_tables_are_saved_and_nothing_of_them_is_learned(item_features: FeatureTable) -> None:
    model = ranker(item_features)
    names = set(model.state_dict())
    assert {"evidence.statistics.times", "evidence.statistics.users.keys", "evidence.statistics.items.sums"} <= names
    assert not [name for name, _ in model.named_parameters() if name.startswith("evidence")]
