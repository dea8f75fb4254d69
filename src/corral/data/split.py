"""Which events are for training, validation and test, and what a history may contain.

Every split names its history rule, says what it leaks, and is printed beside the results it produced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np

from corral.data.dataset import Dataset
from corral.data.history import HistoryIndex, HistoryRule
from corral.data.order_statistic import chunks, order_statistic


class Part(IntEnum):
    """The three parts of a split."""

    TRAIN = 0
    VALID = 1
    TEST = 2


LEAVE_LAST_TWO_OUT_WARNING = (
    "leave-last-two-out trains on events of other users that happened after the tested ones: figures are "
    "comparable with published ones, but optimistic; use the time cut to judge a system"
)
RANDOM_WARNING = (
    "random trains on events that happened after the tested ones, of the same users too, and items that rose or fell "
    "are known as such in advance: figures are comparable with published ones, but optimistic; use the time cut to "
    "judge a system"
)


@dataclass(frozen=True)
class Split:
    """A part for every event of a data set's log.

    Attributes:
        name: ``time-cut``, ``leave-last-two-out``, ``random`` or ``given``.
        part: :class:`Part` of each event [n], uint8.
        history_rule: what a history may contain under ties.
        train_history_only: histories hold train events only (given and random splits, which need not follow time).
        facts: what to print beside results: cut times, counts, cold users and items.
        warning: what the split leaks, or "".
        impression_part: :class:`Part` of each impression, uint8, where the split deals them out too (random);
            None where their part follows from their time, their column or the user's next click.
    """

    name: str
    part: np.ndarray
    history_rule: HistoryRule
    train_history_only: bool = False
    facts: Mapping[str, object] = field(default_factory=dict)
    warning: str = ""
    impression_part: np.ndarray | None = None

    def rows(self, part: Part) -> np.ndarray:
        """Event rows of a part, ascending, int64."""
        return np.flatnonzero(self.part == part)

    def histories(self, dataset: Dataset) -> HistoryIndex:
        """The history index that this split allows."""
        keep = self.part == Part.TRAIN if self.train_history_only else None
        return HistoryIndex.of(dataset.events, self.history_rule, keep)

    def train_counts(self, dataset: Dataset) -> np.ndarray:
        """Train events of each item row [M + 2], int64."""
        counts = np.zeros(dataset.n_items, dtype=np.int64)
        for rows in chunks(len(self.part)):
            train = self.part[rows] == Part.TRAIN
            counts += np.bincount(dataset.events.item[rows][train], minlength=len(counts))
        return counts

    def train_users(self, dataset: Dataset) -> np.ndarray:
        """Whether each user row has a train event [U], bool."""
        seen = np.zeros(dataset.n_users, dtype=bool)
        for rows in chunks(len(self.part)):
            seen[dataset.events.user[rows][self.part[rows] == Part.TRAIN]] = True
        return seen

    def catalogue(self, dataset: Dataset) -> np.ndarray:
        """Item rows with at least one train event, ascending, int64: what can be recommended."""
        return np.flatnonzero(self.train_counts(dataset))


def _with_facts(dataset: Dataset, split: Split, facts: Mapping[str, object]) -> Split:
    """The split with counts of events and of cold users and items added to its facts."""
    events = dataset.events
    counted: dict[str, Any] = dict(facts)
    seen_user, item_counts = split.train_users(dataset), split.train_counts(dataset)
    seen_item = item_counts > 0
    counted["train_events"] = int(item_counts.sum())
    for part in (Part.VALID, Part.TEST):
        found = np.zeros(3, dtype=np.int64)
        for rows in chunks(len(split.part)):
            chosen = split.part[rows] == part
            cold = [~seen_user[events.user[rows][chosen]], ~seen_item[events.item[rows][chosen]]]
            found += (chosen.sum(), *(each.sum() for each in cold))
        for name, number in zip(("events", "cold_user_events", "cold_item_events"), found.tolist(), strict=True):
            counted[f"{part.name.lower()}_{name}"] = number
    return replace(split, facts=counted)


def _check_fractions(valid_fraction: float, test_fraction: float) -> None:
    if not (valid_fraction > 0 and test_fraction > 0 and valid_fraction + test_fraction < 1):
        raise ValueError(
            f"valid_fraction={valid_fraction} and test_fraction={test_fraction} must be positive and sum to < 1"
        )


def time_cut(
    dataset: Dataset,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    valid_from: int | None = None,
    test_from: int | None = None,
) -> Split:
    """Global cut in time: the last events of the whole log are the test, those before them the validation.

    Args:
        dataset: events with real times.
        valid_fraction: share of events for validation, where ``valid_from`` is not given.
        test_fraction: share of events for test, where ``test_from`` is not given.
        valid_from: first time of validation, in the data set's unit.
        test_from: first time of test.

    Raises:
        ValueError: the data set has no times, or a part would be empty.
    """
    if dataset.header.time_unit == "order":
        raise ValueError(
            f"{dataset.path}: events carry an order but no time, so a global time cut is impossible; "
            "use the split leave-last-two-out"
        )
    time = dataset.events.time
    n = len(time)
    if valid_from is None or test_from is None:
        _check_fractions(valid_fraction, test_fraction)
        shares = (1 - valid_fraction - test_fraction, 1 - test_fraction)
        cuts = [order_statistic(time, min(int(n * share), n - 1)) for share in shares]
        valid_from = cuts[0] if valid_from is None else valid_from
        test_from = cuts[1] if test_from is None else test_from
    if valid_from >= test_from:
        raise ValueError(f"validation from {valid_from} must begin before the test from {test_from}")
    part = (time >= valid_from).astype(np.uint8) + (time >= test_from).astype(np.uint8)
    counts = np.bincount(part, minlength=3)
    if not counts.all():
        raise ValueError(
            f"time cut at {valid_from} and {test_from} leaves {counts.tolist()} events for train, valid, test: "
            "choose other times or fractions"
        )
    split = Split("time-cut", part, HistoryRule.STRICT)
    return _with_facts(dataset, split, {"valid_from": valid_from, "test_from": test_from})


def leave_last_two_out(dataset: Dataset) -> Split:
    """Each user's last event is the test, the one before it the validation; users with fewer than 3 only train."""
    offsets = dataset.events.offsets
    part = np.zeros(len(dataset.events.item), dtype=np.uint8)
    enough = np.flatnonzero(np.diff(offsets) >= 3)
    last = offsets[enough + 1] - 1
    part[last], part[last - 1] = Part.TEST, Part.VALID
    split = Split("leave-last-two-out", part, HistoryRule.ORDER, warning=LEAVE_LAST_TWO_OUT_WARNING)
    return _with_facts(dataset, split, {"users_tested": len(enough)})


def random_split(dataset: Dataset, valid_fraction: float = 0.1, test_fraction: float = 0.1, *, seed: int = 0) -> Split:
    """Every event, and every impression, is dealt to a part by lot, whatever its user and time.

    Histories hold train events only, those before the event.

    Args:
        dataset: the events.
        valid_fraction: share of events for validation.
        test_fraction: share of events for test.
        seed: of the lots; the same log and seed give the same parts.

    Raises:
        ValueError: fractions that leave a part empty.
    """
    _check_fractions(valid_fraction, test_fraction)

    def dealt(n: int, stream: int) -> np.ndarray:
        """Parts of n rows, of exactly the sizes asked for."""
        place = np.random.default_rng((seed, stream)).permutation(n)
        test, valid = round(n * test_fraction), round(n * valid_fraction)
        return (place < test + valid).astype(np.uint8) + (place < test).astype(np.uint8)

    part = dealt(len(dataset.events), 0)
    counts = np.bincount(part, minlength=3)
    if not counts.all():
        raise ValueError(
            f"random split by {valid_fraction} and {test_fraction} leaves {counts.tolist()} events for train, valid, "
            "test: choose other fractions"
        )
    rule = HistoryRule.ORDER if dataset.header.time_unit == "order" else HistoryRule.STRICT
    shown = None if dataset.impressions is None else dealt(len(dataset.impressions), 1)
    split = Split("random", part, rule, train_history_only=True, warning=RANDOM_WARNING, impression_part=shown)
    return _with_facts(
        dataset, split, {"valid_fraction": valid_fraction, "test_fraction": test_fraction, "split_seed": seed}
    )


def given(dataset: Dataset) -> Split:
    """The split that came with the data (column ``part``); histories hold train events only.

    Raises:
        ValueError: the data set has no column ``part``.
    """
    if dataset.events.part is None:
        raise ValueError(f"{dataset.path}: no given split (no column `part`); use time-cut or leave-last-two-out")
    rule = HistoryRule.ORDER if dataset.header.time_unit == "order" else HistoryRule.STRICT
    split = Split("given", np.asarray(dataset.events.part).astype(np.uint8), rule, train_history_only=True)
    return _with_facts(dataset, split, {})
