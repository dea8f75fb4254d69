"""RAR's joint loss: clicks and exposures.

L = alpha BCE(y, y_hat) + (1 - alpha) BCE-with-logits(Y_ep, logits of G); RAR, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import torch
from torch import Tensor, nn
from torch.nn import functional

from corral.data.batches import Batch
from corral.rar.co_interaction import item_exposure_loss, pair_exposure_loss
from corral.rar.exposure import PairLog
from corral.rar.neighbours import Refresh
from corral.rar.ranker import Enriched, RarRanker


class Exposure(StrEnum):
    """What was exposed: PAIR (look-alike a, recall item b), or ITEM (target user, recall item b)."""

    PAIR = "pair"
    ITEM = "item"


class JointObjective(nn.Module):
    """Click loss and exposure loss of a ``RarRanker``, and the refresh of its neighbours.

    Args:
        ranker: what learns.
        exposures: the train log's pairs; None only with ``alpha`` = 1.
        refresh: chooses neighbours anew.
        alpha: weight of the click loss, in (0, 1].
        granularity: of the exposure label.
        positive_weight: of exposed cells.
        live: neighbours depend on the weights: they are chosen at every refresh but the first, so that the first
            epoch (the warm-up) trains with empty sets. Otherwise they are chosen once.
    """

    def __init__(
        self,
        ranker: RarRanker,
        exposures: PairLog | None,
        refresh: Refresh,
        *,
        alpha: float = 0.9,
        granularity: Exposure = Exposure.PAIR,
        positive_weight: float = 1.0,
        live: bool = False,
    ) -> None:
        super().__init__()
        if not 0.0 < alpha <= 1.0:
            raise ValueError(f"alpha={alpha}: must be in (0, 1]; at 0 nothing would learn from clicks")
        if alpha < 1.0 and exposures is None:
            raise ValueError(f"alpha={alpha} needs exposures; use alpha=1 without them")
        self.ranker, self.alpha = ranker, alpha
        self.granularity, self.positive_weight, self.live = granularity, positive_weight, live
        # The log is data: it is not saved with the weights.
        self._exposures, self._refresh = (lambda: exposures), refresh
        self.register_buffer("refreshes", torch.zeros((), dtype=torch.int64))

    refreshes: Tensor

    def refresh(self) -> None:
        """Chooses the neighbours where it is time to."""
        neighbours = self.ranker.neighbours
        if int(self.refreshes) > 0 if self.live else int(neighbours.version) == 0:
            self._refresh(neighbours)
        self.refreshes += 1

    def generators(self) -> Mapping[str, torch.Generator]:
        """None."""
        return {}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch: ``click``, ``exposure`` (with alpha < 1) and their weighted ``total``; nats."""
        enriched = self.ranker.enriched(batch.query, batch.item[:, None])
        click = functional.binary_cross_entropy_with_logits(enriched.logits[:, 0].float(), batch.label)
        if self.alpha == 1.0:
            return {"total": click}
        exposure = self._exposure_loss(batch, enriched)
        return {"total": self.alpha * click + (1.0 - self.alpha) * exposure, "click": click, "exposure": exposure}

    def _exposure_loss(self, batch: Batch, enriched: Enriched) -> Tensor:
        exposures, query = self._exposures(), batch.query
        assert exposures is not None
        until = self.ranker.neighbours.rule.exposure_time(query.time)
        if self.granularity is Exposure.ITEM:
            exposed, _ = exposures.before(query.user[:, None, None], enriched.item_rows, until[:, None, None])
            return item_exposure_loss(enriched.matching, exposed, self.positive_weight)
        exposed, _ = exposures.before(
            enriched.user_rows[:, None, :, None], enriched.item_rows[:, :, None, :], until[:, None, None, None]
        )
        return pair_exposure_loss(enriched.matching, exposed, self.positive_weight)
