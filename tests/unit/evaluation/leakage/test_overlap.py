"""Rows in two parts are found; what the test knows from train and impressions clicked later are told, as counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.data.split import Part, Split, leave_last_two_out, random_split, time_cut
from corral.evaluation.leakage.finding import Finding, Verdict
from corral.evaluation.leakage.overlap import check_overlap

Row = tuple[int, int, int]


def world(tmp_path: Path, events: list[Row], shown: list[Row] | None = None) -> Dataset:
    def frame(rows: list[Row]) -> pl.DataFrame:
        return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")

    impressions = None if shown is None else frame(shown)
    return Dataset.write(tmp_path / "data", Interactions.of(frame(events), impressions=impressions, source="test"))


def by_subject(dataset: Dataset, split: Split) -> dict[str, Finding]:
    return {finding.subject: finding for finding in check_overlap(dataset, split)}


def test_silent_on_a_clean_world(shop: Dataset, split: Split) -> None:
    found = by_subject(shop, split)
    assert found.pop("identical rows").verdict is Verdict.CLEAN
    assert {finding.verdict for finding in found.values()} == {Verdict.TOLD}


def test_a_row_in_two_parts_is_found(tmp_path: Path) -> None:
    # User 1's last two events are the same; so are user 2's first and third, told apart by nothing but their place.
    rows = [(1, 5, 10), (1, 6, 20), (1, 7, 30), (1, 7, 30), (2, 8, 10), (2, 8, 10), (2, 8, 10)]
    dataset = world(tmp_path, rows)
    finding = by_subject(dataset, leave_last_two_out(dataset))["identical rows"]
    assert finding.verdict is Verdict.LEAK
    assert finding.figure.startswith("2 (user, item, time) rows lie in two parts, 1 of them in train")
    assert "drop duplicates" in finding.advice


def test_an_impression_and_a_click_may_be_the_same_row(tmp_path: Path) -> None:
    events = [(user, item, item) for user in range(5) for item in range(20)]
    dataset = world(tmp_path, events, events[:50])
    assert by_subject(dataset, random_split(dataset))["identical rows"].verdict is Verdict.LEAK
    assert by_subject(dataset, time_cut(dataset))["identical rows"].verdict is Verdict.CLEAN


def test_what_the_test_knows_from_train(tmp_path: Path) -> None:
    train = [(1, 5, 1), (2, 6, 2), (2, 7, 3)]
    test = [(1, 5, 20), (1, 9, 21), (3, 6, 22), (2, 6, 23)]
    dataset = world(tmp_path, [*train, (1, 7, 10), *test])
    found = by_subject(dataset, time_cut(dataset, valid_from=10, test_from=20))
    assert found["test known from train"].figure == (
        "users known from train 75.0%, items 75.0%, pairs 50.0% of 4 events"
    )
    assert "repeats" in found["test known from train"].advice
    assert found["valid known from train"].figure == (
        "users known from train 100.0%, items 100.0%, pairs 0.0% of 1 events"
    )
    assert not found["valid known from train"].advice


def test_impressions_clicked_after_all(tmp_path: Path) -> None:
    events = [(1, 5, 1), (1, 6, 2), (1, 7, 12), (1, 8, 25), (2, 5, 1), (2, 5, 26)]
    shown = [
        (1, 5, 1),  # with the click
        (1, 6, 1),  # clicked later, in train too
        (1, 8, 2),  # clicked in the test
        (1, 8, 15),  # the same, from validation
        (1, 5, 3),  # clicked before only
        (2, 5, 2),  # clicked before and later, in the test
        (2, 9, 4),  # never clicked
    ]
    dataset = world(tmp_path, [*events, (3, 9, 30)], shown)
    finding = by_subject(dataset, time_cut(dataset, valid_from=10, test_from=20))["impressions clicked after all"]
    assert finding.verdict is Verdict.TOLD
    assert finding.figure == (
        "1 of 7 impressions are clicks at the same time, 4 are clicked later, 3 of them in a later part"
    )
    assert finding.advice


@pytest.mark.parametrize("part", [Part.VALID, Part.TEST])
def test_a_part_without_events(tmp_path: Path, part: Part) -> None:
    dataset = world(tmp_path, [(1, 5, 1), (1, 6, 2)])
    split = Split("by hand", np.zeros(2, dtype=np.uint8), leave_last_two_out(dataset).history_rule)
    assert by_subject(dataset, split)[part.name.lower()].figure == "no events"
