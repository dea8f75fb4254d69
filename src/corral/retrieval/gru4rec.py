"""GRU4Rec (Hidasi et al., ICLR 2016; here with a softmax loss): a recurrent net over the items of a history."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corral.data.batches import Query, SequenceBatch
from corral.data.vocabulary import FIRST_ROW
from corral.retrieval.causal import last_queries, pack, unpack


class GRU4Rec(nn.Module):
    """A causal retriever; items in and out share one table.

    Args:
        num_items: item rows, the two reserved ones included.
        size: D.
        hidden: state size of the GRU.
        layers: GRU layers.
        dropout: on embeddings and on the output.
        sparse: gradients of the item table hold the rows of the batch alone; for sampled losses over large
            catalogues.
        max_length: longest history used when a single query is encoded.
    """

    def __init__(
        self,
        num_items: int,
        *,
        size: int = 64,
        hidden: int = 128,
        layers: int = 1,
        dropout: float = 0.2,
        sparse: bool = False,
        max_length: int = 50,
    ) -> None:
        super().__init__()
        self.max_length = max_length
        self.item_embedding = nn.Embedding(num_items, size, padding_idx=0, sparse=sparse)
        self.gru = nn.GRU(size, hidden, layers, batch_first=True)
        self.output = nn.Linear(hidden, size)
        self.empty_query = nn.Parameter(torch.zeros(size))
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.item_embedding.weight, std=size**-0.5)
        with torch.no_grad():
            # Padding, and unknown: an item of which nothing is known.
            self.item_embedding.weight[:FIRST_ROW] = 0

    def _states(self, vectors: Tensor) -> Tensor:
        """The GRU's state after each packed item's vector: [B, L, D] -> [B, L, H]."""
        states, _ = self.gru(self.dropout(vectors))
        return states

    def _encode_last(self, vectors: Tensor, number: Tensor | None) -> Tensor:
        """The query after the last of ``number`` [B] packed items' vectors [B, L, D] (None: of all L): [B, D]."""
        rows = torch.arange(len(vectors), device=vectors.device)
        place = -1 if number is None else number - 1
        return self.output(self.dropout(self._states(vectors)[rows, place]))

    def encode_positions(self, sequence: SequenceBatch) -> Tensor:
        """Query vectors at every position [B, L + 1, D]."""
        packed, pad = pack(sequence.items)
        return unpack(self.output(self.dropout(self._states(self.item_embedding(packed)))), pad, self.empty_query)

    def encode_queries(self, query: Query) -> Tensor:
        """Query vectors [B, D] from the last ``max_length`` items of each history."""
        history = query.recent(self.max_length).history
        return last_queries(history, self.item_embedding, self._encode_last, self.empty_query)

    def id_tables(self) -> tuple[list[nn.Embedding], list[nn.Embedding]]:
        """No table of users; the table of items."""
        return [], [self.item_embedding]

    def encode_items(self, items: Tensor) -> Tensor:
        """Item vectors [..., D]."""
        return self.item_embedding(items)
