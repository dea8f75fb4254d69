"""A small RAR ranker with weights of its own and neighbours chosen from random keys, in double precision."""

from __future__ import annotations

import torch

from corral.data.batches import Query
from corral.ranking.ctr.din import DIN
from corral.ranking.evidence import EvidenceRanker
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker
from corral.rar.co_interaction import CoInteraction
from corral.rar.neighbours import Neighbours
from corral.rar.ranker import RarRanker
from corral.rar.time_rules import TimeRule

USERS, ITEMS, SIZE = 12, 15, 4


def small_rar() -> RarRanker:
    """A DIN with 3 look-alikes and 4 recall items; the last user has one look-alike."""
    torch.manual_seed(0)
    fields = Fields(USERS, ITEMS, field_size=SIZE)
    ctr = DIN(
        SIZE,
        fields.num_context_fields,
        fields.num_item_fields + 2,
        num_history_fields=fields.num_item_fields,
        hidden=(8,),
    )
    neighbours = Neighbours(USERS, ITEMS, TimeRule.static(), look_alikes=3, recall_items=4)
    generator = torch.Generator().manual_seed(1)
    for table in (neighbours.u2u, neighbours.i2i):
        rows = [torch.randperm(table.shape[1] - 2, generator=generator)[: table.shape[2]] + 2 for _ in table[0]]
        table[0] = torch.stack(rows).int()
    neighbours.u2u[0, -1, 1:] = 0
    ranker = RarRanker(
        EvidenceRanker(FieldRanker(fields, ctr), None),
        neighbours,
        CoInteraction(SIZE, SIZE, tower_size=8, output_size=SIZE),
    )
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator))
    return ranker.double().eval()


def asked() -> tuple[Query, torch.Tensor]:
    """Two users, the second with one look-alike, and four items each."""
    history = torch.tensor([[0, 3, 5, 7], [2, 9, 9, 4]])
    user = torch.tensor([4, USERS - 1])
    return Query(user, torch.full((2,), -1), history, torch.zeros(2).long()), torch.tensor(
        [[2, 6, 8, 14], [3, 5, 7, 9]]
    )
