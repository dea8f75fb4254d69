"""CoRR with the stages taking turns, a step each: the second way to train them together."""

from __future__ import annotations

from torch import Tensor

from corral.corr.objective import CooperativeObjective
from corral.data.batches import Batch, SequenceBatch


class AlternatingObjective(CooperativeObjective):
    """As ``CooperativeObjective``, but even steps minimise L_ra alone and odd ones L_re + w_KD L_KD.

    Each stage moves on half of the batches, against a partner that stands still for the step.
    """

    def forward(self, batch: Batch | SequenceBatch) -> dict[str, Tensor]:
        """The same losses; "total" is that of the stage whose turn it is."""
        ranker_turn = int(self.step) % 2 == 0
        losses = super().forward(batch)
        losses["total"] = losses["ranker"] if ranker_turn else losses["total"] - losses["ranker"]
        return losses
