"""Overlap: rows that two parts share, what the test knows from train, and what was shown and clicked later."""

from __future__ import annotations

import numpy as np
import polars as pl

from corral.data.dataset import Dataset, EventLog
from corral.data.examples import impression_parts
from corral.data.split import Part, Split
from corral.evaluation.leakage.finding import Finding, Verdict

CHECK = "overlap of the parts"


def check_overlap(dataset: Dataset, split: Split) -> list[Finding]:
    """Identical rows in two parts are a leak; the rest is told.

    Args:
        dataset: events, and impressions if it has them.
        split: their parts.
    """
    rows = _rows(dataset.events, split.part)
    found = []
    if dataset.impressions is not None:
        shown = _rows(dataset.impressions, impression_parts(dataset, split))
        found = _clicked_after_all(rows, shown)
        rows = pl.concat([rows, shown])
    return [_identical(rows), *_known(dataset, split), *found]


def _rows(log: EventLog, part: np.ndarray) -> pl.DataFrame:
    columns = {"user": log.user, "item": log.item, "time": log.time, "part": part.astype(np.uint8)}
    return pl.DataFrame({name: np.asarray(column) for name, column in columns.items()})


def _identical(rows: pl.DataFrame) -> Finding:
    """Rows of one user, item and time that lie in more than one part."""
    twice = rows.group_by("user", "item", "time").agg(pl.col("part").unique()).filter(pl.col("part").list.len() > 1)
    count = len(twice)
    if not count:
        return Finding(CHECK, "identical rows", Verdict.CLEAN, f"none of {len(rows):,} rows lies in two parts")
    train = int(twice["part"].list.contains(int(Part.TRAIN)).sum())
    return Finding(
        CHECK,
        "identical rows",
        Verdict.LEAK,
        f"{count:,} (user, item, time) rows lie in two parts, {train:,} of them in train",
        "drop duplicates before the data set is made, or cut by time, which never parts equal times",
    )


def _known(dataset: Dataset, split: Split) -> list[Finding]:
    """What share of validation and test train has met before."""
    events, train = dataset.events, split.part == Part.TRAIN
    user, item = np.zeros(dataset.n_users, dtype=bool), np.zeros(dataset.n_items, dtype=bool)
    user[events.user[train]] = item[events.item[train]] = True
    pairs = np.asarray(events.user).astype(np.int64) * dataset.n_items + events.item
    met = np.unique(pairs[train])
    found = []
    for part in (Part.VALID, Part.TEST):
        rows = split.rows(part)
        if not len(rows):
            found.append(Finding(CHECK, part.name.lower(), Verdict.TOLD, "no events"))
            continue
        repeated = float(np.isin(pairs[rows], met).mean())
        figure = (
            f"users known from train {user[events.user[rows]].mean():.1%}, items {item[events.item[rows]].mean():.1%}, "
            f"pairs {repeated:.1%} of {len(rows):,} events"
        )
        advice = _REPEATED if repeated > 0.1 else ""
        found.append(Finding(CHECK, f"{part.name.lower()} known from train", Verdict.TOLD, figure, advice))
    return found


_REPEATED = "lists leave repeated pairs out unless split.repeats=true; click metrics count them: report new pairs apart"


def _clicked_after_all(clicks: pl.DataFrame, shown: pl.DataFrame) -> list[Finding]:
    """Impressions, labelled 0, whose user clicked the item at the same time or later."""
    latest = (pl.col("time").max().alias("clicked"), pl.col("part").max().alias("then"))
    last = clicks.group_by("user", "item").agg(*latest)
    both = shown.join(last, on=["user", "item"], how="left")
    now = shown.join(clicks.select("user", "item", "time").unique(), on=["user", "item", "time"], how="semi")
    later = both.filter(pl.col("clicked") > pl.col("time"))
    apart = later.filter(pl.col("then") > pl.col("part"))
    figure = (
        f"{len(now):,} of {len(shown):,} impressions are clicks at the same time, {len(later):,} are clicked later, "
        f"{len(apart):,} of them in a later part"
    )
    advice = ""
    if len(now):
        advice = "an impression of the moment of the click says 0 where the click says 1: take it out"
    return [Finding(CHECK, "impressions clicked after all", Verdict.TOLD, figure, advice)]
