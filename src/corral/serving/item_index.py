"""The index of a catalogue as a service searches it: by a rule, measured with the queries of real users."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from corral.data.whole_batch import by_shares
from corral.retrieval.evaluation_mode import evaluation_mode
from corral.retrieval.index import ItemIndex
from corral.retrieval.index_rule import IndexRule
from corral.retrieval.retriever import Retriever
from corral.serving.queries import Queries
from corral.serving.user_vectors import user_vectors, users_with_history

# Users whose lists tell what an approximate index finds.
MEASURED_USERS = 256
# Items encoded at a time: whole blocks, so that the bits do not depend on who encodes them.
_ROWS = 8_192


@torch.no_grad()
def item_vectors(retriever: Retriever, rows: Tensor, device: torch.device) -> Tensor:
    """The vectors of item rows [M], on the CPU: [M, D]; of several processes each encodes some of the blocks."""
    blocks = rows.split(_ROWS)

    def encoded(own: Tensor) -> Tensor:
        chosen = [blocks[number] for number in own.tolist()] or [rows[:0]]
        return torch.cat([retriever.encode_items(block.to(device)).float().cpu() for block in chosen])

    with evaluation_mode(retriever):
        return by_shares(torch.arange(len(blocks)), encoded) if len(rows) else torch.empty(0, 1)


def served_index(
    rule: IndexRule, queries: Queries, retriever: Retriever, rows: Tensor, k: int, device: torch.device
) -> ItemIndex:
    """The index of item rows.

    Args:
        rule: which kind.
        queries: of the same catalogue.
        retriever: encodes both sides.
        rows: what can be recommended [M], int64.
        k: how many items a search will ask for.
        device: of the retriever.
    """
    users = users_with_history(queries.tables)
    drawn = np.random.default_rng(0).permutation(users)[:MEASURED_USERS]
    vectors = item_vectors(retriever, rows, device)
    return rule.build(vectors, rows.cpu(), user_vectors(queries, retriever, drawn, device).float(), k)
