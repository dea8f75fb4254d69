"""A ranker with RAR around it, from its settings: how much wider its CTR model must be, and what finds neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from corral.cli.ranker_inputs import known_rule
from corral.ranking.evidence import EvidenceRanker
from corral.ranking.fields import Fields
from corral.rar.ann_selector import AnnSelector
from corral.rar.as_of_neighbours import AsOfNeighbours
from corral.rar.co_interaction import CoInteraction, Normalisation, Pooling
from corral.rar.exposure import PairLog
from corral.rar.neighbours import Neighbours, RecalledNeighbours
from corral.rar.pool import Metric
from corral.rar.profile_keys import ProfileKeys
from corral.rar.random_selector import RandomSelector
from corral.rar.ranker import RarRanker
from corral.rar.selection import ExactSelector, SimHashSelector
from corral.rar.time_rules import TimeRule


def make_selector(spec: Mapping[str, Any], seed: int) -> Any:
    """What finds neighbours.

    Args:
        spec: the settings.
        seed: of fingerprints, or of lots.
    """
    kind = spec["selector"]
    if kind == "random":
        return RandomSelector(seed=seed)
    if kind in ("simhash", "simhash-inner-product"):
        metric: Metric = "cosine" if kind == "simhash" else "inner-product"
        return SimHashSelector(spec["bits"], seed=seed, metric=metric, rerank=spec["rerank"])
    return AnnSelector(kind=kind) if kind in ("ivf", "hnsw") else ExactSelector(kind)


def make_neighbours(spec: Mapping[str, Any], num_users: int, num_items: int, rule: TimeRule) -> Neighbours:
    """Where neighbours are kept, or searched for; none is chosen yet.

    Args:
        spec: the settings.
        num_users, num_items: rows.
        rule: the snapshots.
    """
    counts = {name: spec[name] for name in ("look_alikes", "recall_items")}
    if spec["pool"] == "recalled":
        selectors = [make_selector(spec, 1) for _ in range(rule.snapshots)]
        return RecalledNeighbours(num_users, num_items, rule, selectors, **counts, pool_size=spec["pool_size"])
    if spec.get("as_of_event"):  # bundles of before do not say
        selectors = [make_selector(spec, 0) for _ in range(rule.snapshots)]
        nothing = ProfileKeys.empty(), PairLog.empty(num_items)
        return AsOfNeighbours(num_users, num_items, rule, selectors, *nothing, **counts)
    return Neighbours(num_users, num_items, rule, **counts)


@dataclass(frozen=True)
class Enrichment:
    """How much wider a CTR model must be for RAR, and the ranker around it.

    Attributes:
        chosen: the settings, with the rule's edges and the prior that were noted of the data.
        fields: the ranker's.
        as_extra: v_c and v_d are dense inputs, one weight a coordinate.
    """

    chosen: Mapping[str, Any]
    fields: Fields
    as_extra: bool

    @property
    def _sizes(self) -> tuple[int, int]:
        """Du and Di."""
        size = self.fields.field_size
        return len(self.fields.users) * size, self.fields.num_item_fields * size

    @property
    def more_fields(self) -> int:
        """Item fields beside the item's own."""
        return 0 if self.as_extra else 2

    @property
    def more_extra(self) -> int:
        """Dense inputs beside the evidence's."""
        return sum(self._sizes) if self.as_extra else 0

    def around(self, ranker: EvidenceRanker) -> RarRanker:
        """The enriched ranker; its neighbours are still to be chosen."""
        chosen = self.chosen
        sizes = self.fields.users.num_rows, self.fields.catalogue.num_rows
        neighbours = make_neighbours(chosen, *sizes, known_rule(chosen))
        co_interaction = CoInteraction(
            *self._sizes,
            tower_size=chosen["tower_size"],
            output_size=None if self.as_extra else self.fields.field_size,
            normalisation=Normalisation(chosen["normalisation"]),
            pooling=Pooling(chosen["pooling"]),
            prior=chosen["prior"],
        )
        return RarRanker(ranker, neighbours, co_interaction, as_extra=self.as_extra, zeroed=chosen["zeroed"])
