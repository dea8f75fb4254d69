"""The joint baselines on whole sequences, with a causal retriever and a few positions for the ranker."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from corral.corr.baselines.icc import IccObjective
from corral.corr.baselines.lcron import LcronObjective
from corral.corr.baselines.rankflow import RankFlowObjective
from corral.corr.stages import Stages
from corral.data.batches import SequenceBatch
from corral.ranking.ctr.din import DIN
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker
from corral.retrieval.sasrec import SASRec
from corral.sampling.uniform import UniformSampler

MAKERS: dict[str, Callable[[Stages], nn.Module]] = {
    "icc": lambda stages: IccObjective(stages, UniformSampler(stages.catalogue), num_negatives=7, k=3),
    "lcron": lambda stages: LcronObjective(stages, UniformSampler(stages.catalogue), num_negatives=7, k_retriever=3),
    "rankflow": lambda stages: RankFlowObjective(
        stages, UniformSampler(stages.catalogue), num_negatives=7, num_candidates=5, best=2
    ),
}


def sequences() -> SequenceBatch:
    """Three users; the first events of the second are padding."""
    items = torch.tensor([[2, 3, 4, 5], [0, 0, 6, 7], [8, 9, 2, 10]])
    event = torch.arange(12).view(3, 4).masked_fill(items == 0, -1)
    slots = torch.arange(4).expand(3, 4)
    return SequenceBatch(torch.tensor([2, 3, 4]), items, event, event.clamp(min=0), slots, items != 0)


@pytest.mark.parametrize("name", MAKERS)
def test_both_stages_get_gradients_from_sequences(name: str) -> None:
    torch.manual_seed(0)
    fields = Fields(6, 12, field_size=4)
    ranker = FieldRanker(fields, DIN(4, fields.num_context_fields, fields.num_item_fields, hidden=(8,)))
    stages = Stages(SASRec(12, size=8, blocks=1, max_length=4), ranker, torch.arange(2, 12), positions=2)
    objective = MAKERS[name](stages)
    assert set(objective.generators()) == {"negatives", "positions"}  # type: ignore[operator]
    objective.refresh()  # type: ignore[operator]
    losses: dict[str, Tensor] = objective(sequences())
    assert all(bool(loss.isfinite()) for loss in losses.values())
    losses["total"].backward()
    for stage in (stages.retriever, stages.ranker):
        assert any(p.grad is not None and bool(p.grad.any()) for p in stage.parameters())
