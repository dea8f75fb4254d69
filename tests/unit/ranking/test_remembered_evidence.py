"""Evidence that is worked out once is what it would be each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from corral.data.dataset import Dataset
from corral.data.examples import Examples
from corral.data.interactions import Interactions
from corral.data.sampled_negatives import with_sampled_negatives
from corral.data.split import Part, leave_last_two_out, time_cut
from corral.ranking.evidence import CoVisitationEvidence
from corral.ranking.remembered_evidence import RememberedEvidence
from corral.retrieval.co_visitation import CoVisitation


@pytest.mark.parametrize("split", [leave_last_two_out, time_cut])
def test_baskets_of_one_time_see_what_was_before_each_item(split, tmp_path: Path) -> None:
    """Four items share a time; in a leave-one-out split each has those before it in its history."""
    random = np.random.default_rng(0)
    rows = [
        (user, int(item), 100 * basket + user)
        for user in range(40)
        for basket in range(5)
        for item in random.choice(20, 4)
    ]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    dataset = Dataset.write(tmp_path / "baskets", Interactions.of(frame, source="made up"))
    parts = split(dataset)
    clicks = Examples.of(dataset, parts, Part.TRAIN)
    examples = with_sampled_negatives(clicks, dataset, parts, Part.TRAIN, per_positive=2, repeats=True)
    evidence = CoVisitationEvidence(CoVisitation.of(dataset, parts))
    pieces = np.array_split(np.arange(len(examples)), 4)
    remembered = RememberedEvidence(evidence, (examples.batch(at, 10) for at in pieces))
    batch = examples.batch(np.arange(len(examples))[::-1].copy(), 10)
    found = remembered(batch.query, batch.item[:, None])
    assert found is not None
    torch.testing.assert_close(found, evidence(batch.query, batch.item[:, None]), rtol=0, atol=0)
    unseen = examples.batch(np.arange(3), 9).query
    assert remembered(unseen, torch.full((3, 1), 10**6)) is None
