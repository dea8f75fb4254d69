"""An older data set's models asked in the rows of a newer one."""

from __future__ import annotations

import polars as pl
import torch
from torch import Tensor

from corral.data.batches import Query
from corral.data.vocabulary import Vocabulary
from corral.evaluation.other_rows import OtherRows, OtherRowsChannel, OtherRowsRanker
from corral.retrieval.popularity import PopularityChannel


def vocabulary(*ids: int) -> Vocabulary:
    return Vocabulary.of(pl.Series(ids))


def test_queries_candidates_and_items_change_their_rows() -> None:
    users = vocabulary(1, 3), vocabulary(1, 2, 3)
    items = vocabulary(10, 20, 40), vocabulary(10, 15, 40)  # 20 is gone, 15 is new
    rows = OtherRows(users, items, "cpu")
    query = Query(torch.tensor([4, 3]), torch.tensor([7, 8]), torch.tensor([[0, 4], [3, 2]]), torch.tensor([5, 5]))
    assert rows.query(query).user.tolist() == [3, 1]
    assert rows.query(query).event.tolist() == [-1, -1]
    assert rows.query(query).history.tolist() == [[0, 4], [1, 2]]
    # 20 is the most popular then, 10 the second; it is not there any more, and its place is not left empty
    channel = OtherRowsChannel(PopularityChannel(torch.tensor([0, 0, 5, 9, 3])), rows)
    assert channel.recall(query, 3).items.tolist() == [[2, 4, 0], [2, 4, 0]]
    assert channel.recall(query, 2, torch.tensor([[2], [0]])).items.tolist() == [[4, 0], [2, 4]]

    def ranker(asked: Query, wanted: Tensor) -> Tensor:
        return 100.0 * asked.user[:, None] + wanted

    logits = OtherRowsRanker(ranker, rows)(query, torch.tensor([[2, 3, 4], [4, 2, 3]]))
    assert logits.tolist() == [[302.0, 301.0, 304.0], [104.0, 102.0, 101.0]]
