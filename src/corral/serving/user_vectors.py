"""Query vectors of many users, as of the export.

Shape letters: U users, D vector size.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from corral.data.vocabulary import FIRST_ROW
from corral.retrieval.evaluation_mode import evaluation_mode
from corral.retrieval.retriever import Retriever
from corral.serving.queries import Queries
from corral.serving.serving_tables import ServingTables


def users_with_history(tables: ServingTables) -> np.ndarray:
    """Rows of the users of whom something is known, int64, ascending."""
    rows = np.arange(FIRST_ROW, len(tables.users))
    return rows[tables.histories.lengths(rows) > 0]


@torch.no_grad()
def user_vectors(
    queries: Queries, retriever: Retriever, rows: np.ndarray, device: torch.device, batch_size: int = 512
) -> Tensor:
    """What the retriever makes of user rows [U] by their stored histories: [U, D], on the CPU."""
    vectors = []
    with evaluation_mode(retriever):
        for start in range(0, len(rows), batch_size):
            some = rows[start : start + batch_size]
            query = queries.query(some, queries.stored(some), None, {}).to(device)
            vectors.append(retriever.encode_queries(query).cpu())
    return torch.cat(vectors or [torch.empty(0, 1)])
