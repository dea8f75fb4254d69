"""What a linear item-to-item model says of (history, candidate), as inputs of a ranker.

Shape letters: B queries, N items per query, L history items, R latest of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corral.data.batches import Query
from corral.data.features import FeatureTable
from corral.retrieval.linear_items import LinearItems


class LinearEvidence(nn.Module):
    """Weights of ``LinearItems`` between history and candidate, the user's own events taken out.

    Of no paper: corral's own choice. One input a step back, r = 1 .. R, so that the ranker learns what recency is
    worth; then the sum over the whole history (EASE's score), the same with a decay, and the strongest weight. Each is
    log(1 + 10 max(w, 0)): of about unit scale, and what speaks against an item counts as nothing.

    Args:
        table: the weights, of train events.
        recent: R.
        history_length: L: so many of the latest items are summed.
        decay: of the second sum.
    """

    def __init__(self, table: LinearItems, *, recent: int = 5, history_length: int = 50, decay: float = 0.8) -> None:
        super().__init__()
        if not 1 <= recent <= history_length:
            raise ValueError(f"recent={recent}: must be in 1..{history_length} (history_length)")
        self.table, self.recent, self.history_length = table, recent, history_length
        self.size = recent + 3
        self.register_buffer("decays", decay ** torch.arange(history_length - 1, -1, -1).float(), persistent=False)

    decays: Tensor

    @torch.no_grad()
    def forward(self, query: Query, items: Tensor) -> Tensor:
        """[B, N, R + 3]."""
        history = query.recent(self.history_length).history
        length = history.shape[1]
        if length < self.recent:
            history = torch.cat([history.new_zeros(len(query), self.recent - length), history], 1)
        weights = self.table.between(query.user, history, items)
        # Not a product of matrices: autocast would make it in bfloat16, in training and not in service.
        decayed = (weights * self.decays[-weights.shape[2] :]).sum(-1)
        sums = torch.stack([weights.sum(-1), decayed, weights.amax(-1)], -1)
        return torch.log1p(10 * torch.cat([weights[..., -self.recent :], sums], -1).clamp(min=0))

    def renumber(self, moved: Tensor, items: FeatureTable) -> None:
        """See ``HoldsItemRows``."""
        device = self.table.place.device
        self.table = self.table.cpu().renumbered(moved, items.rows).to(device)
