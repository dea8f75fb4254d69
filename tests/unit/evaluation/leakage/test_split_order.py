"""A time cut whose parts are out of order is found; other rules are told what they leak."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from corral.data.dataset import Dataset
from corral.data.split import Part, Split, leave_last_two_out, random_split, time_cut
from corral.evaluation.leakage.finding import Verdict
from corral.evaluation.leakage.split_order import check_split_order


def test_silent_on_a_time_cut(shop: Dataset) -> None:
    found = check_split_order(time_cut(shop), shop.events.time)
    assert [(one.subject, one.verdict) for one in found] == [
        ("train before valid", Verdict.CLEAN),
        ("train before test", Verdict.CLEAN),
        ("valid before test", Verdict.CLEAN),
    ]


@pytest.mark.parametrize(
    ("where", "becomes", "leaks"),
    [
        (Part.TRAIN, Part.TEST, {"train before test", "valid before test"}),
        (Part.TRAIN, Part.VALID, {"train before valid"}),
        (Part.TEST, Part.TRAIN, {"train before valid", "train before test"}),
    ],
)
def test_one_event_in_the_wrong_part_is_found(shop: Dataset, where: Part, becomes: Part, leaks: set[str]) -> None:
    split = time_cut(shop)
    part = split.part.copy()
    rows = split.rows(where)
    # The earliest of train, the latest of the test.
    part[rows[np.argsort(shop.events.time[rows])[0 if where is Part.TRAIN else -1]]] = becomes
    found = check_split_order(replace(split, part=part), shop.events.time)
    assert {one.subject for one in found if one.verdict is Verdict.LEAK} == leaks


def test_a_tie_at_the_cut_is_found(shop: Dataset) -> None:
    split = time_cut(shop, valid_from=60, test_from=80)
    part = split.part.copy()
    part[np.flatnonzero(shop.events.time == 60)[0]] = Part.TRAIN
    (finding, *_) = check_split_order(replace(split, part=part), shop.events.time)
    assert finding.verdict is Verdict.LEAK
    assert finding.figure.startswith("1 of ")


@pytest.mark.parametrize("make", [leave_last_two_out, random_split])
def test_other_rules_are_told(shop: Dataset, make: object) -> None:
    split: Split = make(shop)  # type: ignore[operator]
    said, *order = check_split_order(split, shop.events.time)
    assert (said.verdict, said.figure) == (Verdict.TOLD, split.warning)
    assert {one.verdict for one in order} <= {Verdict.TOLD, Verdict.CLEAN}
    assert any(one.verdict is Verdict.TOLD for one in order)


def test_without_times_there_is_nothing_to_look_at(shop: Dataset) -> None:
    said, skipped = check_split_order(leave_last_two_out(shop), None)
    assert said.verdict is Verdict.TOLD
    assert skipped.verdict is Verdict.SKIPPED
