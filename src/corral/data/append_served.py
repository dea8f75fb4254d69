"""append_served: lists that a service logged, as impressions of a Dataset: what was shown and not clicked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from corral.data.dataset import Dataset
from corral.data.dataset_append import impressions_below, only_writer, refuse_unfit
from corral.data.dataset_interactions import interactions_of
from corral.data.dataset_write import Progress
from corral.data.event_check import ID_COLUMNS
from corral.data.served_lists import read_served_lists
from corral.data.time_units import SECONDS
from corral.data.vocabulary import UNKNOWN

PAIR_AND_TIME = [*ID_COLUMNS, "timestamp"]


@dataclass(frozen=True)
class Served:
    """What became of the (user, item, time) rows of a log.

    Attributes:
        dataset: as it is now.
        added: new impressions.
        clicked: shown, and then had.
        there: impressions already, by an earlier call.
        waiting: their time to be clicked is not over, or the data set does not know their user or item yet.
    """

    dataset: Dataset
    added: int
    clicked: int
    there: int
    waiting: int


def check_served(path: str | Path, log: str | Path) -> None:
    """Whether ``append_served`` takes a log, before anything is written; raises as it does."""
    _shown(Dataset.open(path), Path(log))


def append_served(
    path: str | Path, log: str | Path, *, clicked_within: int | None = None, progress: Progress | None = None
) -> Served:
    """Adds what was shown and not clicked to a Dataset's impressions, in its place; see ``append_events``.

    An item counts as clicked where the user has an event of it from the time of the list until ``clicked_within``
    later. Lists whose time to be clicked ends after the latest event are left for a later call, so events are
    appended first. The same log may be given again: what is there is not doubled.

    Args:
        path: the Dataset directory.
        log: a file of served lists, or the directory of all.
        clicked_within: in the data set's unit; None: a day.
        progress: as in ``Dataset.write``.

    Raises:
        ValueError: naming file and line; the Dataset was made with filters, has no times, or a given split; or another
            append is under way.
        FileNotFoundError: there is no such log or Dataset.
    """
    path = Path(path)
    with only_writer(path):
        dataset = Dataset.open(path)
        shown = _shown(dataset, Path(log))
        within = (
            round(SECONDS["days"] / SECONDS[dataset.header.time_unit]) if clicked_within is None else clicked_within
        )
        if within < 0:
            raise ValueError(f"clicked_within={within}: must not be negative")
        known = pl.Series(dataset.users.rows(shown["user_id"]) != UNKNOWN)
        known &= pl.Series(dataset.items.rows(shown["item_id"]) != UNKNOWN)
        latest = int(dataset.events.time.max())
        ready = shown.filter(known & (shown["timestamp"] + within <= latest))
        old = interactions_of(dataset)
        clicks = old.events.select(*PAIR_AND_TIME, clicked=True).sort("timestamp")
        judged = ready.sort("timestamp").join_asof(
            clicks, on="timestamp", by=ID_COLUMNS, strategy="forward", tolerance=within, check_sortedness=False
        )
        passed = judged.filter(pl.col("clicked").is_null()).drop("clicked")
        new = passed if old.impressions is None else passed.join(old.impressions, on=PAIR_AND_TIME, how="anti")
        numbers = (len(new), len(ready) - len(passed), len(passed) - len(new), len(shown) - len(ready))
        if not len(new):
            return Served(dataset, *numbers)
        if old.impressions is not None:
            new = impressions_below(old.impressions, new)
        interactions = replace(old, impressions=new, source=f"{old.source}, {Path(log).name}")
        return Served(Dataset.write(path, interactions, name=dataset.name, overwrite=True, progress=progress), *numbers)


def _shown(dataset: Dataset, log: Path) -> pl.DataFrame:
    """The rows of a log for a Dataset that can take them."""
    refuse_unfit(dataset)
    if dataset.events.part is not None:
        raise ValueError(f"{dataset.path}: has a given split, and nothing says to which part a served list belongs")
    return read_served_lists(log, dataset)
