"""A recall channel is no module; the retriever it holds is judged without dropout all the same."""

from __future__ import annotations

import polars as pl
import torch
from torch import Tensor, nn

from corral.data.batches import Query
from corral.data.vocabulary import Vocabulary
from corral.evaluation.other_rows import OtherRows, OtherRowsChannel
from corral.retrieval.channels import ColdStartChannel, MergedChannel, RetrieverChannel
from corral.retrieval.evaluation_mode import evaluation_mode
from corral.retrieval.index import ExactIndex
from corral.retrieval.popularity import PopularityChannel


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def encode_queries(self, query: Query) -> Tensor:
        return self.dropout(torch.ones(len(query), 64))


def test_the_retriever_inside_a_channel_is_found() -> None:
    model = Noisy().train()
    index = ExactIndex(torch.randn(5, 64), torch.arange(2, 7))
    popularity = PopularityChannel(torch.ones(7))
    served = ColdStartChannel(RetrieverChannel(model, index), popularity)
    ids = Vocabulary.of(pl.Series(range(5)))
    renamed = OtherRowsChannel(served, OtherRows((ids, ids), (ids, ids), "cpu"))
    for channel in (RetrieverChannel(model, index), served, MergedChannel([popularity, served]), renamed):
        with evaluation_mode(channel):
            assert not model.dropout.training
        assert model.dropout.training
