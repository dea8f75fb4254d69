"""Served lists become impressions: what was shown and not clicked in time, each once."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from corral.data.append_served import append_served
from corral.data.dataset import Dataset
from corral.data.dataset_append import append_events
from corral.data.interactions import ColumnMap, Interactions, read_table

EVENTS = [(1, 10, 0), (1, 20, 5), (2, 10, 6), (2, 30, 50), (3, 40, 100)]


def frame(rows: list[tuple[int, int, int]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


def log(path: Path, *lists: tuple[object, object, object]) -> Path:
    text = "".join(json.dumps({"user_id": u, "time": t, "item_ids": items}) + "\n" for u, t, items in lists)
    path.write_text(text)
    return path


def kept(dataset: Dataset) -> set[tuple[int, int, int]]:
    shown = dataset.impressions
    if shown is None:
        return set()
    users, items = dataset.users.external(shown.user), dataset.items.external(shown.item)
    return set(zip(users, items, shown.time.tolist(), strict=True))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return Dataset.write(tmp_path / "data", Interactions.of(frame(EVENTS), source="by hand")).path


def test_shown_and_not_clicked_in_time(data: Path, tmp_path: Path) -> None:
    served = log(
        tmp_path / "served.jsonl",
        (2, 40, [10, 30, 20]),  # 10: had before, not after; 30: clicked ten later
        (1, 4, [20, 30]),  # 20: clicked one later
        (1, 5, [20]),  # at the same moment
        (2, 39, [30]),  # eleven later: too late
        (3, 95, [40, 10]),  # the time to click is not over
        (9, 7, [10]),  # nobody knows the user yet
        (1, 4, [30]),  # said twice
    )
    found = append_served(data, served, clicked_within=10)
    assert (found.added, found.clicked, found.there, found.waiting) == (4, 3, 0, 3)
    assert kept(found.dataset) == {(2, 10, 40), (2, 20, 40), (1, 30, 4), (2, 30, 39)}
    assert len(found.dataset.events) == len(EVENTS)
    # Again: nothing is doubled, the data set stays as it is.
    again = append_served(data, served, clicked_within=10)
    assert (again.added, again.there, again.waiting) == (0, 4, 3)
    assert again.dataset.hash == found.dataset.hash
    # Later events end the waiting, and make the user known.
    append_events(data, frame([(9, 50, 200)]))
    later = append_served(data, served, clicked_within=10)
    assert (later.added, later.clicked, later.waiting) == (2, 4, 0)
    assert kept(later.dataset) - kept(found.dataset) == {(3, 10, 95), (9, 10, 7)}


def test_a_day_is_the_default_in_the_data_sets_unit(tmp_path: Path) -> None:
    events = Interactions.of(
        frame([(1, 10, 0), (1, 20, 1440), (1, 30, 1441), (1, 10, 9_999)]), source="x", time_unit="minutes"
    )
    path = Dataset.write(tmp_path / "data", events).path
    found = append_served(path, log(tmp_path / "served.jsonl", (1, 0, [20, 30])))
    assert kept(found.dataset) == {(1, 30, 0)}


def test_a_directory_is_read_whole_and_a_torn_line_left_out(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    log(folder / "b.jsonl", (1, 1, [30]))
    torn = log(folder / "a.jsonl", (2, 1, [40]))
    torn.write_text(torn.read_text() + '{"user_id": 1, "ti')
    assert kept(append_served(data, folder, clicked_within=1).dataset) == {(1, 30, 1), (2, 40, 1)}


def test_impressions_with_values_and_weights_get_theirs(tmp_path: Path) -> None:
    rows = frame(EVENTS).with_columns(stars=pl.Series([1.0, 2, 3, 4, 5]), clicked=pl.Series([1, 1, 0, 1, 1]), w=2.0)
    columns = ColumnMap(value="stars", label="clicked", weight="w")
    path = Dataset.write(tmp_path / "data", read_table(rows, columns)).path
    found = append_served(path, log(tmp_path / "served.jsonl", (1, 1, [30])), clicked_within=1).dataset
    shown = found.impressions
    assert shown is not None
    assert shown.value is not None
    assert shown.weight is not None
    assert (shown.value.tolist(), shown.weight.tolist()) == ([0.0, 3.0], [1.0, 2.0])


def test_events_with_values_go_on_after_lists_without(tmp_path: Path) -> None:
    rows = frame(EVENTS).with_columns(stars=pl.Series([1.0, 2, 3, 4, 5]), w=2.0)
    columns = ColumnMap(value="stars", weight="w")
    path = Dataset.write(tmp_path / "data", read_table(rows, columns)).path
    append_served(path, log(tmp_path / "served.jsonl", (1, 1, [30])), clicked_within=1)
    before = Dataset.open(path).impressions
    more = rows.with_columns(pl.col("timestamp") + 200)
    grown = append_events(path, more, columns)
    assert before is not None
    assert grown.impressions is not None
    assert before.value is grown.impressions.value is None
    assert len(grown.events) == 10
    # Labelled rows have values: those of lists are then 0, and each list counts as 1.
    labelled = rows.with_columns(pl.col("timestamp") + 300, clicked=pl.Series([1, 1, 0, 1, 1]))
    shown = append_events(path, labelled, ColumnMap(value="stars", label="clicked", weight="w")).impressions
    assert shown is not None
    assert shown.value is not None
    assert shown.weight is not None
    assert (shown.value.tolist(), shown.weight.tolist()) == ([0.0, 3.0], [1.0, 2.0])


def test_what_is_no_log_is_refused(data: Path, tmp_path: Path) -> None:
    for lists, message in (
        ([("x", 1, [10])], r"served.jsonl, line 1: user 'x': the ids of this data set are whole numbers"),
        ([(1, 1, [10]), (1, 1, [10, True])], "line 2: item True"),
        ([(1, -1, [10])], "line 1: no served list"),
        ([(1, 1.5, [10])], "line 1: no served list"),
        ([(1, 2**63, [10])], "line 1: no served list"),
        ([(1, 1, "10")], "line 1: no served list"),
    ):
        with pytest.raises(ValueError, match=message):
            append_served(data, log(tmp_path / "served.jsonl", *lists))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no served lists"):
        append_served(data, tmp_path / "empty")
    given = frame(EVENTS).with_columns(part=pl.Series(["train", "valid", "test", "train", "train"]))
    path = Dataset.write(tmp_path / "given", read_table(given, ColumnMap(part="part"))).path
    with pytest.raises(ValueError, match="has a given split"):
        append_served(path, log(tmp_path / "served.jsonl", (1, 1, [30])))
