"""JointRanker: a RAR ranker while it learns, its exposure loss beside its logits, its neighbours chosen anew."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

import torch
from torch import Tensor, nn

from corral.data.batches import Query
from corral.rar.co_interaction import item_exposure_loss, matched_and_exposed, pair_exposure_loss
from corral.rar.exposure import PairLog
from corral.rar.neighbours import Refresh
from corral.rar.ranker import Enriched, RarRanker
from corral.retrieval.retriever import Retriever


class Exposure(StrEnum):
    """What was exposed: PAIR (look-alike a, recall item b), or ITEM (target user, recall item b)."""

    PAIR = "pair"
    ITEM = "item"


class JointRanker(nn.Module):
    """A ``RarRanker`` with what only its training needs: the exposure loss of RAR, section 3, and the refresh.

    Whoever owns the click loss puts both together: L = alpha L_click + (1 - alpha) L_exposure.

    Args:
        ranker: what learns.
        exposures: the train log's pairs; None only with ``alpha`` = 1.
        refresh: chooses neighbours anew.
        alpha: weight of the click loss, in (0, 1].
        granularity: of the exposure label.
        positive_weight: of exposed cells.
        live: neighbours depend on weights that change: they are chosen at every refresh but the first, so that training
            warms up with empty sets until the second, and before every validation. Otherwise they are chosen once.
        exposed_items: cells of so many of an example's first items are asked about; a lookup of all draws costs more
            than they teach.
    """

    refreshes: Tensor
    renewed: Tensor

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
        exposed_items: int = 2,
    ) -> None:
        super().__init__()
        if not 0.0 < alpha <= 1.0:
            raise ValueError(f"alpha={alpha}: must be in (0, 1]; at 0 nothing would learn from clicks")
        if alpha < 1.0 and exposures is None:
            raise ValueError(f"alpha={alpha} needs exposures; use alpha=1 without them")
        self.ranker, self.alpha = ranker, alpha
        self.granularity, self.positive_weight = granularity, positive_weight
        self.live, self.exposed_items = live, exposed_items
        self.told: dict[str, Tensor] = {}  # of the last batch: see ``matched_and_exposed``
        # The log is data: it is not saved with the weights.
        self._exposures, self._refresh = (lambda: exposures), refresh
        self.register_buffer("refreshes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("renewed", torch.zeros((), dtype=torch.bool))

    def refresh(self) -> None:
        """Chooses the neighbours where it is time to."""
        neighbours = self.ranker.neighbours
        if int(self.refreshes) > 0 and not self.renewed if self.live else int(neighbours.version) == 0:
            self._refresh(neighbours)
        self.renewed.fill_(False)
        self.refreshes += 1

    def renew(self) -> None:
        """Chooses live neighbours anew: what is judged and served is of the weights as they are."""
        if self.live:
            self._refresh(self.ranker.neighbours)
            self.renewed.fill_(True)

    def connect(self, retriever: Retriever) -> None:
        """Names the retriever whose score the ranker reads."""
        self.ranker.connect(retriever)

    def forward(self, query: Query, items: Tensor, scores: Tensor | None = None) -> Tensor:
        """Logits [B, N]; see ``RarRanker``."""
        return self.ranker(query, items, scores)

    def logits_and_loss(self, query: Query, items: Tensor, scores: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits [B, N], and the exposure loss of their matching: nats, 0 with ``alpha`` = 1."""
        if self.training:
            self.renewed.fill_(False)  # a step follows
        enriched = self.ranker.enriched(query, items, scores)
        self.told = {}
        exposures = self._exposures()
        if self.alpha == 1.0 or exposures is None:
            return enriched.logits, enriched.logits.new_zeros(())
        return enriched.logits, self._exposure_loss(exposures, query, enriched)

    def _exposure_loss(self, exposures: PairLog, query: Query, enriched: Enriched) -> Tensor:
        first = slice(self.exposed_items)
        matching, items = enriched.matching, enriched.item_rows[:, first]
        matching = replace(matching, logits=matching.logits[:, first], cells=matching.cells[:, first])
        until = self.ranker.neighbours.rule.exposure_time(query.time)
        if self.granularity is Exposure.ITEM:
            exposed, _ = exposures.before(query.user[:, None, None], items, until[:, None, None])
            self.told = matched_and_exposed(matching, exposed[:, :, None].expand_as(matching.cells))
            return item_exposure_loss(matching, exposed, self.positive_weight)
        pairs = enriched.user_rows[:, None, :, None], items[:, :, None, :]
        exposed, _ = exposures.before(*pairs, until[:, None, None, None])
        self.told = matched_and_exposed(matching, exposed)
        return pair_exposure_loss(matching, exposed, self.positive_weight)
