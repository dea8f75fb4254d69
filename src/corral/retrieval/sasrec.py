"""SASRec (Kang & McAuley, ICDM 2018): a causal transformer over the items of a history."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.data.batches import Query, SequenceBatch
from corral.data.vocabulary import FIRST_ROW
from corral.retrieval.causal import last_queries, pack, unpack


class _Block(nn.Module):
    """Causal self-attention and a position-wise feed-forward part, each normalised first (pre-LN)."""

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(size)
        self.attention_in = nn.Linear(size, 3 * size)
        self.attention_out = nn.Linear(size, size)
        self.feed_norm = nn.LayerNorm(size)
        self.feed_in = nn.Linear(size, 4 * size)
        self.feed_out = nn.Linear(4 * size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, size = x.shape
        joint = self.attention_in(self.attention_norm(x))
        q, k, v = joint.view(batch, length, 3, self.heads, size // self.heads).unbind(2)
        # No dropout inside the attention: with it the fused kernels fall back to the slow form.
        attended = functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
        )
        x = x + self.dropout(self.attention_out(attended.transpose(1, 2).reshape(batch, length, size)))
        return self._feed(x)

    def last(self, x: Tensor, number: Tensor | None) -> Tensor:
        """As ``forward``, at the last real position alone: [B, L, D], lengths [B] (None: L) -> [B, D]."""
        batch, length, size = x.shape
        rows = torch.arange(batch, device=x.device)
        place = -1 if number is None else number - 1
        normed = self.attention_norm(x)
        weight, bias = self.attention_in.weight, self.attention_in.bias
        query = functional.linear(normed[rows, place], weight[:size], bias[:size])
        keys, values = functional.linear(normed, weight[size:], bias[size:]).chunk(2, dim=-1)

        def by_head(vectors: Tensor) -> Tensor:
            return vectors.unflatten(-1, (self.heads, size // self.heads)).transpose(1, 2)

        seen = None
        if number is not None:
            seen = (torch.arange(length, device=x.device) < number[:, None])[:, None, None, :]
        attended = functional.scaled_dot_product_attention(
            by_head(query[:, None]), by_head(keys), by_head(values), attn_mask=seen
        )
        here = x[rows, place] + self.dropout(self.attention_out(attended.reshape(batch, size)))
        return self._feed(here)

    def _feed(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.feed_out(functional.gelu(self.feed_in(self.feed_norm(x)))))


class SASRec(nn.Module):
    """A causal retriever; items in and out share one table, queries are the normalised last states.

    Args:
        num_items: item rows, the two reserved ones included.
        size: D.
        max_length: longest history; older items are cut off.
        blocks: transformer blocks.
        heads: attention heads; must divide ``size``.
        dropout: on embeddings and residual branches.
        item_std: standard deviation of the items' vectors at the start; 0: 1 / sqrt(size). Scores begin as far apart as
            vectors are long.
        sparse: gradients of the item table hold the rows of the batch alone; for sampled losses over large
            catalogues.
    """

    def __init__(
        self,
        num_items: int,
        *,
        size: int = 64,
        max_length: int = 50,
        blocks: int = 2,
        heads: int = 1,
        dropout: float = 0.2,
        item_std: float = 0.0,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        if size % heads:
            raise ValueError(f"heads={heads} must divide size={size}")
        self.max_length = max_length
        self.item_embedding = nn.Embedding(num_items, size, padding_idx=0, sparse=sparse)
        self.position_embedding = nn.Embedding(max_length, size)
        self.empty_query = nn.Parameter(torch.zeros(size))
        self.blocks = nn.ModuleList(_Block(size, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(size)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.item_embedding.weight, std=item_std or size**-0.5)
        nn.init.normal_(self.position_embedding.weight, std=size**-0.5)
        with torch.no_grad():
            # Padding, and unknown: an item of which only its place in the history says something.
            self.item_embedding.weight[:FIRST_ROW] = 0

    def _placed(self, vectors: Tensor) -> Tensor:
        """Vectors of packed items [B, L, D] with their places, as the first block reads them."""
        positions = self.position_embedding.weight[: vectors.shape[1]]
        # Embeddings have norm about 1; scaled up as in the paper so that positions do not drown items.
        return self.dropout(vectors * self.item_embedding.embedding_dim**0.5 + positions)

    def _encode_last(self, vectors: Tensor, number: Tensor | None) -> Tensor:
        """The query after the last of ``number`` [B] packed items' vectors [B, L, D] (None: of all L): [B, D]."""
        x = self._placed(vectors)
        for block in self.blocks[:-1]:
            x = block(x)
        return self.norm(cast(_Block, self.blocks[-1]).last(x, number))

    def encode_positions(self, sequence: SequenceBatch) -> Tensor:
        """Query vectors at every position [B, L + 1, D]."""
        if sequence.items.shape[1] > self.max_length:
            raise ValueError(f"sequences of {sequence.items.shape[1]} items, but max_length={self.max_length}")
        packed, pad = pack(sequence.items)
        x = self._placed(self.item_embedding(packed))
        for block in self.blocks:
            x = block(x)
        return unpack(self.norm(x), pad, self.empty_query)

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
