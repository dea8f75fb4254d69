"""RankerInputs: what a ranker reads beside fields and history, made of a run's data, or empty for a bundle's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from corral.cli.progress import progress
from corral.data.as_of import AsOfRule, AsOfStatistics
from corral.data.dataset import Dataset
from corral.data.features import FeatureTable
from corral.data.split import Part, Split
from corral.evidence_settings import BehaviourSettings, SimilarRowsSettings
from corral.ranking.as_of_evidence import AsOfEvidence
from corral.ranking.evidence import CoVisitationEvidence
from corral.ranking.linear_evidence import LinearEvidence
from corral.rar.behaviour import BehaviourEvidence
from corral.rar.exposure import PairLog
from corral.rar.item_log import ItemLog
from corral.rar.neighbours import CataloguePools, Neighbours
from corral.rar.profile_keys import ProfileKeys
from corral.rar.selection import ExactSelector
from corral.rar.similar_rows import SimilarRowsEvidence
from corral.rar.time_rules import Rule, TimeRule
from corral.rar.train_log import TrainLog
from corral.retrieval.co_visitation import CoVisitation
from corral.retrieval.linear_items import LinearItems
from corral.stage_settings import RankerSettings


def known_rule(spec: Mapping[str, Any]) -> TimeRule:
    """The rule as it was noted in the spec of a ranker."""
    edges, fold = (spec.get(name) for name in ("edges", "fold"))
    if fold is not None:
        return TimeRule(Rule.FOLDS, torch.zeros(0, dtype=torch.int64), torch.tensor(fold))
    return TimeRule(Rule.BLOCKS, torch.tensor(edges)) if edges else TimeRule.static()


def empty_evidence(spec: Mapping[str, Any], users: FeatureTable, items: FeatureTable) -> dict[str, nn.Module]:
    """Evidence by its name in the settings, with nothing in it: what a bundle saved is loaded into it.

    Args:
        spec: of a ranker, with what was noted of the data.
        users: features by user row.
        items: features by item row; the catalogue may have grown since (add_items).
    """
    found: dict[str, nn.Module] = {}
    if chosen := spec.get("evidence"):
        table = CoVisitation.empty(**{**chosen["sizes"], "items": items.rows})
        found["evidence"] = CoVisitationEvidence(table, recent=chosen["recent"], decay=chosen["decay"])
    if chosen := spec.get("linear"):
        found["linear"] = LinearEvidence(LinearItems.empty(items.rows), **_linear(chosen))
    if chosen := spec.get("as_of"):
        knobs = {name: chosen[name] for name in ("smoothing", "recent", "window")}
        sizes = {**chosen["sizes"], "items": items.rows}
        found["as_of"] = AsOfEvidence(AsOfStatistics.empty(items, **sizes, **knobs))
    if chosen := spec.get("behaviour"):
        found["behaviour"] = BehaviourEvidence(*_no_logs(items.rows), known_rule(chosen), **_behaviour(chosen))
    if chosen := spec.get("similar_rows"):
        near = _near(chosen, known_rule(chosen), users.rows, items.rows)
        found["similar_rows"] = SimilarRowsEvidence(*_no_logs(items.rows), near, **_similar_rows(chosen))
    return found


def _no_logs(num_items: int) -> tuple[ProfileKeys, ItemLog, PairLog]:
    return ProfileKeys.empty(), ItemLog.empty(), PairLog.empty(num_items)


def _near(chosen: Mapping[str, Any], rule: TimeRule, num_users: int, num_items: int) -> Neighbours:
    return Neighbours(num_users, num_items, rule, look_alikes=0, recall_items=chosen["near_items"])


def _linear(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of ``LinearEvidence``."""
    return {name: chosen[name] for name in ("recent", "history_length", "decay")}


def _behaviour(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of ``BehaviourEvidence``."""
    return {"count": chosen["people"], **{name: chosen[name] for name in ("history_length", "column", "row")}}


def _similar_rows(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of ``SimilarRowsEvidence``."""
    names = {"count": "rows", "people_per_item": "people", "history_length": "history_length"}
    return {keyword: chosen[name] for keyword, name in names.items()}


@dataclass(frozen=True)
class RankerInputs:
    """Tables of train events and of earlier ones, for the ranker of a run; nothing in them is learned.

    Attributes:
        chosen: the ranker's settings.
        dataset: the events.
        split: their parts.
        labels: click labels of all events, where the ranker learns from them; None: every event is one.
        clicks: the ranker learns from click labels (``labels``, impressions or sampled negatives).
        seed: of the run.
        quiet: no progress bars.
    """

    chosen: RankerSettings
    dataset: Dataset
    split: Split
    labels: np.ndarray | None
    clicks: bool
    seed: int
    quiet: bool = False
    _profiles: dict[tuple[int, tuple[int, ...]], ProfileKeys] = field(default_factory=dict, repr=False)

    @cached_property
    def train_log(self) -> TrainLog:
        """Train events as RAR reads them."""
        return TrainLog.of(self.dataset, self.split, self.labels)

    @cached_property
    def rar_rule(self) -> TimeRule | None:
        """What RAR may see as of when."""
        chosen = self.chosen.rar
        if chosen is None:
            return None
        rule = chosen.rule_of(has_time=self.dataset.header.time_unit != "order")
        if rule == "folds":
            return TimeRule.folds(self.dataset.n_users, chosen.folds, self.seed)
        return TimeRule.static() if rule == "static" else self._blocks("rar", chosen.blocks)

    @property
    def as_of_rule(self) -> AsOfRule:
        """Which events as-of statistics look up: as the recipe says, or as the split allows."""
        chosen = self.chosen.as_of
        return AsOfRule.of(self.split) if chosen is None or chosen.rule is None else AsOfRule(chosen.rule)

    def profile_keys(self, size: int, rule: TimeRule) -> ProfileKeys:
        """Behaviour profiles of every snapshot; made once, whoever asks."""
        log, key = self.train_log, (size, tuple(rule.edges.tolist()))
        if rule.fold is not None or key not in self._profiles:
            with progress("Profiles", quiet=self.quiet):
                self._profiles[key] = ProfileKeys.fit(
                    log.user,
                    log.item,
                    log.time,
                    log.value,
                    num_users=self.dataset.n_users,
                    num_items=self.dataset.n_items,
                    rule=rule,
                    size=size,
                    seed=self.seed,
                )
        return self._profiles[key]

    @cached_property
    def evidence(self) -> dict[str, nn.Module]:
        """All evidence that the settings ask for, by its name there, in the order in which the ranker reads it."""
        found: dict[str, nn.Module] = {}
        if (co_visitation := self.chosen.evidence) is not None:
            table = CoVisitation.of(self.dataset, self.split, window=co_visitation.window)
            found["evidence"] = CoVisitationEvidence(table, recent=co_visitation.recent, decay=co_visitation.decay)
        if (linear := self.chosen.linear) is not None:
            knobs = {name: getattr(linear, name) for name in ("regularisation", "max_items")}
            with progress("Linear item weights", quiet=self.quiet):
                weights = LinearItems.of(self.dataset, self.split, **knobs)
            found["linear"] = LinearEvidence(weights, **_linear(linear.model_dump()))
        if self.chosen.as_of is not None:
            found["as_of"] = AsOfEvidence(self._as_of())
        if self.chosen.behaviour is not None:
            found["behaviour"] = self._behaviour(self.chosen.behaviour)
        if self.chosen.similar_rows is not None:
            found["similar_rows"] = self._similar_rows(self.chosen.similar_rows)
        return found

    @cached_property
    def noted(self) -> dict[str, dict[str, Any]]:
        """What of the data ``empty_evidence`` and RAR need to be built again, by the same names: JSON values."""
        found: dict[str, dict[str, Any]] = {}
        for name, made in self.evidence.items():
            if isinstance(made, CoVisitationEvidence):
                found[name] = {"sizes": made.table.sizes}
            elif isinstance(made, AsOfEvidence):
                found[name] = {"sizes": made.statistics.sizes}
            elif isinstance(made, BehaviourEvidence | SimilarRowsEvidence):
                found[name] = {"edges": made.rule.edges.tolist()}
        if (rule := self.rar_rule) is not None:
            fold = None if rule.fold is None else rule.fold.tolist()
            found["rar"] = {"prior": self.train_log.density, "edges": rule.edges.tolist(), "fold": fold}
        return found

    @cached_property
    def rules(self) -> dict[str, object]:
        """As of when each is looked up: printed beside results."""
        found: dict[str, object] = {}
        if self.chosen.as_of is not None:
            found["as_of_rule"] = f"{self.as_of_rule.value}: {self.as_of_rule.words}"
        if self.rar_rule is not None:
            assert self.chosen.rar is not None
            live = "; keys of a retriever whose weights have seen all of train" * (self.chosen.rar.keys == "live")
            asked = "; who asks is described by his history at the event" * self.chosen.rar.as_of_event
            found["rar_rule"] = f"{self.rar_rule.describe()}{live}{asked}; {self._covered(self.rar_rule)}"
        for name in ("behaviour", "similar_rows"):
            made = self.evidence.get(name)
            if isinstance(made, BehaviourEvidence | SimilarRowsEvidence):
                found[f"{name}_rule"] = made.rule.describe()
        return found

    def _covered(self, rule: TimeRule) -> str:
        """How many rows of each part may have look-alikes and recall items at all: of the others RAR says nothing."""
        events, log = self.dataset.events, self.train_log
        late = self.chosen.rar is not None and self.chosen.rar.as_of_event
        first = np.full(self.dataset.n_users, np.iinfo(np.int64).max)  # time of each user's first event
        if late:
            np.minimum.at(first, log.every[0], log.every[2])
        shares = []
        for part in Part:
            rows = self.split.rows(part)
            columns = [np.asarray(column)[rows].astype(np.int64) for column in (events.user, events.item, events.time)]
            learning = part is Part.TRAIN
            known = rule.known(log.user, log.item, log.time, *columns, learning=learning, all_users=late)
            if late:  # who asks has a history
                known &= first[columns[0]] < columns[2]
            shares.append(f"{known.mean() if len(known) else 0.0:.0%} of {part.name.lower()}")
        return f"user and item known to it in {', '.join(shares)}"

    def _blocks(self, name: str, count: int) -> TimeRule:
        if self.dataset.header.time_unit == "order":
            raise ValueError(
                f"ranker.{name}: blocks of train time, but data set {self.dataset.name} has no times, only an order of "
                + ("rows: use ranker.rar.rule=folds or static" if name == "rar" else f"rows: use ranker.{name}=null")
            )
        return TimeRule.blocks(self.train_log.time, count)

    def _as_of(self) -> AsOfStatistics:
        """Rates only where the ranker learns from click labels."""
        chosen = self.chosen.as_of
        assert chosen is not None
        return AsOfStatistics.of(
            self.dataset,
            self.split,
            self.as_of_rule,
            labels=self.labels if self.clicks else None,
            impressions=self.clicks,
            smoothing=chosen.smoothing,
            recent=chosen.recent,
            window=chosen.window,
        )

    def profiles_and_log(self, size: int, rule: TimeRule) -> tuple[ProfileKeys, PairLog]:
        """Profiles, and what everybody said before."""
        return self.profile_keys(size, rule), PairLog.of(*self.train_log.every, num_items=self.dataset.n_items)

    def _logs(self, size: int, rule: TimeRule) -> tuple[ProfileKeys, ItemLog, PairLog]:
        """Profiles, who met what, and what everybody said before."""
        log, (keys, own) = self.train_log, self.profiles_and_log(size, rule)
        people = ItemLog.of(log.user, log.item, log.time, log.value, num_items=self.dataset.n_items, rule=rule)
        return keys, people, own

    def _behaviour(self, chosen: BehaviourSettings) -> BehaviourEvidence:
        rule, shuffle_seed = self._blocks("behaviour", chosen.blocks), self.seed if chosen.shuffle else None
        logs, keywords = self._logs(chosen.key_size, rule), _behaviour(chosen.model_dump())
        return BehaviourEvidence(*logs, rule, **keywords, shuffle_seed=shuffle_seed)

    def _similar_rows(self, chosen: SimilarRowsSettings) -> SimilarRowsEvidence:
        rule, log, spec = self._blocks("similar_rows", chosen.blocks), self.train_log, chosen.model_dump()
        keys, people, own = self._logs(chosen.key_size, rule)
        near, selector = _near(spec, rule, self.dataset.n_users, self.dataset.n_items), ExactSelector("cosine")
        near.refresh(keys, CataloguePools(log.user, log.item, log.time, rule), (selector, selector))
        return SimilarRowsEvidence(keys, people, own, near, **_similar_rows(spec))
