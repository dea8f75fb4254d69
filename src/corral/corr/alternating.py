"""CoRR with the stages taking turns, a step each: the second way to train them together."""

from __future__ import annotations

from torch import Tensor

from corral.corr.objective import CooperativeObjective


class AlternatingObjective(CooperativeObjective):
    """As ``CooperativeObjective``, but even steps minimise L_ra alone and odd ones L_re + w_KD L_KD.

    Each stage moves on half of the batches, against a partner that stands still for the step: it has no gradient then,
    not one of zeros, on which an optimizer with momentum would go on.
    """

    def _total(self, ranker: Tensor, retriever: Tensor) -> Tensor:
        """The loss of the stage whose turn it is."""
        return ranker if int(self.step) % 2 == 0 else retriever
