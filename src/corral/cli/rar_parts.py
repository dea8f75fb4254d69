"""What RAR takes from the data of a run before any training: snapshots, keys, and what look-alikes did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from corral.ranking.evidence import EvidenceRanker
from corral.ranking.fields import Fields
from corral.rar.behaviour import BehaviourEvidence, ItemLog
from corral.rar.co_interaction import CoInteraction, Normalisation, Pooling
from corral.rar.exposure import PairLog
from corral.rar.keys import ProfileKeys
from corral.rar.neighbours import Neighbours, RecalledNeighbours
from corral.rar.ranker import RarRanker
from corral.rar.time_rules import Rule, TimeRule
from corral.rar.train_log import TrainLog


def known_rule(spec: Mapping[str, Any]) -> TimeRule:
    """The rule as it was noted in the spec of a ranker."""
    edges, fold = (spec.get(name) for name in ("edges", "fold"))
    if not edges:
        return TimeRule.static()
    rule = Rule.BLOCKS if fold is None else Rule.FOLDS
    return TimeRule(rule, torch.tensor(edges), None if fold is None else torch.tensor(fold))


def behaviour_evidence(
    chosen: Mapping[str, Any],
    rule: TimeRule,
    *,
    num_items: int,
    log: TrainLog | None = None,
    keys: ProfileKeys | None = None,
    seed: int = 0,
) -> BehaviourEvidence:
    """What look-alikes did.

    Args:
        chosen: the settings.
        rule: the snapshots.
        num_items: item rows.
        log: the train log; without it and ``keys`` there is nothing in it, and what a bundle saved is loaded.
        keys: behaviour profiles.
        seed: of shuffled keys.
    """
    people, own = ItemLog.empty(), PairLog.empty(num_items)
    if log is not None:
        people = ItemLog.of(log.user, log.item, log.time, log.value, num_items=num_items, rule=rule)
        own = PairLog.of(*log.every, num_items=num_items)
    return BehaviourEvidence(
        ProfileKeys.empty() if keys is None else keys,
        people,
        own,
        rule,
        count=chosen["people"],
        history_length=chosen["history_length"],
        column=chosen["column"],
        row=chosen["row"],
        shuffle_seed=seed if chosen["shuffle"] and log is not None else None,
    )


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
        sizes = (self.fields.users.num_rows, self.fields.catalogue.num_rows, known_rule(chosen))
        counts = {name: chosen[name] for name in ("look_alikes", "recall_items")}
        if chosen["pool"] == "recalled":
            neighbours: Neighbours = RecalledNeighbours(
                *sizes, **counts, pool_size=chosen["pool_size"], bits=chosen["bits"]
            )
        else:
            neighbours = Neighbours(*sizes, **counts)
        co_interaction = CoInteraction(
            *self._sizes,
            tower_size=chosen["tower_size"],
            output_size=None if self.as_extra else self.fields.field_size,
            normalisation=Normalisation(chosen["normalisation"]),
            pooling=Pooling(chosen["pooling"]),
            prior=chosen["prior"],
        )
        return RarRanker(ranker, neighbours, co_interaction, as_extra=self.as_extra, zeroed=chosen["zeroed"])
