"""What RAR reads of a log: of train events by train events alone, of others by what came before them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from small_logs import small_dataset

from corral.data.split import Part, leave_last_two_out, random_split, time_cut
from corral.rar.residuals import residuals
from corral.rar.train_log import TrainLog

DATASET = small_dataset(
    [
        (user, item, time, 0)
        for time, (user, item) in enumerate(np.random.default_rng(0).integers(0, 8, (90, 2)).tolist())
    ],
    parts=False,
)
LABELS = (np.random.default_rng(1).random(len(DATASET.events.item)) < 0.5).astype(np.float32)


@pytest.mark.parametrize("rule", [time_cut, leave_last_two_out, random_split])
def test_no_label_outside_train_reaches_a_train_event(rule: object) -> None:
    split = rule(DATASET)  # type: ignore[operator]
    train = split.part == Part.TRAIN
    before = TrainLog.of(DATASET, split, LABELS)
    after = TrainLog.of(DATASET, split, np.where(train, LABELS, 1 - LABELS).astype(np.float32))
    np.testing.assert_array_equal(before.value, after.value)
    assert len(before.value) == train.sum()
    np.testing.assert_array_equal(before.item, DATASET.events.item[train])


def test_under_a_time_cut_everybody_is_judged_by_what_came_before() -> None:
    log = TrainLog.of(DATASET, time_cut(DATASET), LABELS)
    wanted = residuals(np.asarray(DATASET.events.user), np.asarray(DATASET.events.time), LABELS)
    np.testing.assert_allclose(log.every[3], wanted, atol=1e-6)


def test_histories_of_a_random_split_hold_train_events_alone() -> None:
    split = random_split(DATASET)
    log = TrainLog.of(DATASET, split, LABELS)
    assert len(log.every[0]) == (split.part == Part.TRAIN).sum()
    np.testing.assert_array_equal(log.every[3], log.value)


def test_clicks_alone_are_ones() -> None:
    assert set(TrainLog.of(DATASET, time_cut(DATASET), None).value.tolist()) == {1.0}
