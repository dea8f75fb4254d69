"""check_reader: what a reader of raw data gives has gone through the one place where events are checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.testing.requirement import require


def check_reader(read: Callable[[], Interactions]) -> None:
    """Reads twice: checked events, the same both times, that make a Dataset.

    Args:
        read: reads a small sample of the maker's files.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    first, second = read(), read()
    require(isinstance(first, Interactions), f"a reader gives Interactions, not {type(first).__name__}")
    try:
        again = Interactions.of(
            first.events,
            impressions=first.impressions,
            user_features=first.user_features,
            item_features=first.item_features,
            text_columns=first.text_columns,
            time_unit=first.time_unit,
            source=first.source,
            licence=first.licence,
        )
    except ValueError as error:
        raise AssertionError(f"what a reader gives went through Interactions.of, which says: {error}") from error
    for name in ("events", "impressions", "user_features", "item_features"):
        mine, checked = getattr(first, name), getattr(again, name)
        same = mine is checked or (mine is not None and mine.schema == checked.schema and mine.equals(checked))
        require(same, f"{name} went through Interactions.of: checking them again changes nothing")
    require(bool(first.source), "source says where the events come from")
    with TemporaryDirectory() as folder:
        hashes = [Dataset.write(Path(folder) / str(n), one).hash for n, one in enumerate((first, second))]
    require(hashes[0] == hashes[1], "the same files give the same events: reading twice gives one content hash")
