"""Ids without a train event get the row of "unknown"; all others keep theirs, bit for bit."""

from __future__ import annotations

import torch

from corral.data.batches import Query
from corral.retrieval.cold_ids import share_unknown
from corral.retrieval.matrix_factorization import MatrixFactorization
from corral.retrieval.sasrec import SASRec


def test_only_cold_rows_change() -> None:
    model = MatrixFactorization(8, 9, size=4)
    before = [table.weight.clone() for tables in model.id_tables() for table in tables]
    users, items = torch.zeros(8, dtype=torch.bool), torch.ones(9, dtype=torch.bool)
    users[[2, 5]] = True
    share_unknown(model, users, items)
    after = [table.weight for tables in model.id_tables() for table in tables]
    for row in range(8):
        cold = row in (3, 4, 6, 7)
        assert torch.equal(after[0][row], before[0][1 if cold else row])
    assert torch.equal(after[1], before[1])


def test_a_cold_item_in_a_history_says_only_that_something_was_there() -> None:
    torch.manual_seed(0)
    model = SASRec(9, size=4, max_length=5).eval()
    share_unknown(model, torch.ones(8, dtype=torch.bool), torch.arange(9) < 7)
    nobody = torch.full((3,), 1)
    query = Query(nobody, -nobody, torch.tensor([[2, 7], [2, 8], [2, 1]]), nobody)
    one, two, unknown = model.encode_queries(query)
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(one, unknown)


def test_an_unknown_that_nothing_trained_says_nothing() -> None:
    """Noise would give cold items scores, and users one taste."""
    for table in (table for tables in MatrixFactorization(8, 9, size=4).id_tables() for table in tables):
        assert not table.weight[:2].any()
        assert table.weight[2:].any(1).all()
