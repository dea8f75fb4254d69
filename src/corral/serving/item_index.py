"""The index of a catalogue as a service searches it: by a rule, measured with the queries of real users."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from corral.retrieval.evaluation_mode import evaluation_mode
from corral.retrieval.index import ItemIndex
from corral.retrieval.index_rule import IndexRule
from corral.retrieval.retriever import Retriever
from corral.serving.queries import Queries
from corral.serving.user_vectors import user_vectors, users_with_history

# Users whose lists tell what an approximate index finds.
MEASURED_USERS = 256


@torch.no_grad()
def item_vectors(retriever: Retriever, rows: Tensor, device: torch.device) -> Tensor:
    """The vectors of item rows [M], on the CPU: [M, D]."""
    with evaluation_mode(retriever):
        vectors = [retriever.encode_items(part.to(device)).float().cpu() for part in rows.split(8_192)]
    return torch.cat(vectors or [torch.empty(0, 1)])


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
