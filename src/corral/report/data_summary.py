"""What a run was trained and judged on: counts, times, parts, cold users and items, popularity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from corral.data.dataset import Dataset
from corral.data.split import Part, Split
from corral.data.summary import summarize, time_text
from corral.data.vocabulary import FIRST_ROW
from corral.evaluation.list_metrics import popularity_groups
from corral.evaluation.slices import ITEM_GROUPS

BINS = 48
# Points of the popularity curve: enough for a smooth line, whatever the catalogue's size.
CURVE_POINTS = 160


@dataclass(frozen=True)
class PartSummary:
    """One part of the split.

    Attributes:
        name: train, valid or test.
        events: how many.
        first: time of the first event, as text.
        last: time of the last.
        users: how many different ones.
        items: how many different ones.
        cold_users: those of them without a train event.
        cold_items: those of them without a train event.
        cold_user_events: events of cold users.
        cold_item_events: events with cold items.
    """

    name: str
    events: int
    first: str
    last: str
    users: int
    items: int
    cold_users: int
    cold_items: int
    cold_user_events: int
    cold_item_events: int


@dataclass(frozen=True)
class DataSummary:
    """A data set and its split, as plain data.

    Attributes:
        name: of the data set.
        hash: of its contents.
        source: where it came from.
        licence: under which terms.
        counts: users, items, events and so on.
        first: time of the first event, as text; "" where there are no times.
        last: time of the last.
        time_unit: of the raw times.
        quantiles: events a user and events an item, by quantile.
        features: whose, name, kind and coverage of each feature column.
        split: name of the rule.
        history_rule: what a history may contain.
        warning: what the split leaks, or "".
        parts: of the split.
        dates: whether ``timeline`` is in milliseconds since 1970 (else in raw time or places in the log).
        timeline: ``start``, ``end``, ``part``, ``events`` of each bin that holds events.
        popularity: ``rank``, ``events``, ``group`` along the curve of train events by item.
    """

    name: str
    hash: str
    source: str
    licence: str
    counts: Mapping[str, int]
    first: str
    last: str
    time_unit: str
    split: str
    history_rule: str
    parts: Sequence[PartSummary]
    quantiles: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    features: Sequence[tuple[str, str, str, float]] = ()
    warning: str = ""
    dates: bool = False
    timeline: Sequence[Mapping[str, object]] = ()
    popularity: Sequence[Mapping[str, object]] = ()


def data_summary(dataset: Dataset, split: Split) -> DataSummary:
    """Reads all events once."""
    facts, events, unit = summarize(dataset), dataset.events, dataset.header.time_unit
    train = split.part == Part.TRAIN
    known_user = np.bincount(events.user[train], minlength=dataset.n_users) > 0
    counts = split.train_counts(dataset)
    dates, timeline = _timeline(np.asarray(events.time), split.part, unit)
    ordered = unit != "order"
    features = [
        (whose, str(column["name"]), str(column["kind"]), float(column["coverage"]))
        for whose, key in (("user", "user_features"), ("item", "item_features"))
        for column in facts[key]  # type: ignore[attr-defined]
    ]
    return DataSummary(
        name=dataset.name,
        hash=dataset.hash,
        source=dataset.header.source,
        licence=dataset.header.licence,
        counts=dataset.header.counts.model_dump(),
        first=time_text(int(events.time.min()), unit) if ordered else "",
        last=time_text(int(events.time.max()), unit) if ordered else "",
        time_unit=unit,
        split=split.name,
        history_rule=split.history_rule.value,
        parts=[_part(dataset, split, part, known_user, counts > 0) for part in Part],
        quantiles={name: facts[name] for name in ("events_per_user", "events_per_item")},  # type: ignore[misc]
        features=features,
        warning=split.warning,
        dates=dates,
        timeline=timeline,
        popularity=_popularity(counts),
    )


def _part(dataset: Dataset, split: Split, part: Part, known_user: np.ndarray, known_item: np.ndarray) -> PartSummary:
    rows, events, unit = split.rows(part), dataset.events, dataset.header.time_unit
    users, items, time = events.user[rows], events.item[rows], events.time[rows]
    timed = len(rows) > 0 and unit != "order"
    return PartSummary(
        name=part.name.lower(),
        events=len(rows),
        first=time_text(int(time.min()), unit) if timed else "",
        last=time_text(int(time.max()), unit) if timed else "",
        users=len(np.unique(users)),
        items=len(np.unique(items)),
        cold_users=len(np.unique(users[~known_user[users]])),
        cold_items=len(np.unique(items[~known_item[items]])),
        cold_user_events=int((~known_user[users]).sum()),
        cold_item_events=int((~known_item[items]).sum()),
    )


def _milliseconds(time: int, unit: str) -> float | None:
    """Since 1970, where the time is a date."""
    try:
        return datetime.fromisoformat(time_text(time, unit)).replace(tzinfo=UTC).timestamp() * 1000.0
    except ValueError:
        return None


def _timeline(time: np.ndarray, part: np.ndarray, unit: str) -> tuple[bool, list[Mapping[str, object]]]:
    """Events in bins of equal width, each part on its own."""
    first, last = int(time.min()), int(time.max())
    edges = np.unique(np.linspace(first, last + 1, BINS + 1).astype(np.int64))
    place = np.clip(np.searchsorted(edges, time, "right") - 1, 0, len(edges) - 2)
    ends = [_milliseconds(int(edge), unit) for edge in edges]
    dates = unit != "order" and None not in ends
    at: list[float] = [float(end or 0.0) for end in ends] if dates else [float(edge) for edge in edges]
    rows: list[Mapping[str, object]] = []
    for each in Part:
        found = np.bincount(place[part == each], minlength=len(edges) - 1)
        rows += [
            {"start": at[index], "end": at[index + 1], "part": each.name.lower(), "events": int(found[index])}
            for index in np.flatnonzero(found)
        ]
    return dates, rows


def _popularity(counts: np.ndarray) -> list[Mapping[str, object]]:
    """Train events against popularity rank, at places that are even on a logarithmic axis."""
    real = np.arange(len(counts)) >= FIRST_ROW
    groups = popularity_groups(counts, real)
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    if not len(order):
        return []
    places = np.unique(np.geomspace(1, len(order), CURVE_POINTS).round().astype(np.int64)) - 1
    return [
        {
            "rank": int(place) + 1,
            "events": int(counts[order[place]]),
            "group": ITEM_GROUPS[int(groups[order[place]])],
        }
        for place in places
    ]
