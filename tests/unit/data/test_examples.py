"""Clicks and impressions with the histories they may see, against brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corral.data.dataset import Dataset
from corral.data.examples import Examples
from corral.data.interactions import Interactions
from corral.data.split import Part, Split, leave_last_two_out, time_cut


def log(rng: np.random.Generator, n: int, times: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": rng.integers(0, 6, n),
            "item_id": rng.integers(0, 9, n),
            "timestamp": rng.integers(0, times, n),
        }
    )


@pytest.fixture(params=range(5))
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    rng = np.random.default_rng(request.param)
    events, shown = log(rng, 60, 25), log(rng, 80, 25)
    return Dataset.write(tmp_path / "data", Interactions.of(events, impressions=shown, source="test"))


@pytest.mark.parametrize("make", [lambda d: time_cut(d, valid_from=12, test_from=18), leave_last_two_out])
def test_impressions_see_only_earlier_clicks(dataset: Dataset, make: object) -> None:
    split: Split = make(dataset)  # type: ignore[operator]
    events, shown = dataset.events, dataset.impressions
    assert shown is not None
    seen = 0
    for part in Part:
        clicks = Examples.of(dataset, split, part)
        both = Examples.of(dataset, split, part, impressions=True)
        assert both.label.tolist() == [1.0] * len(clicks) + [0.0] * (len(both) - len(clicks))
        assert (both.event[len(clicks) :] == -1).all()
        if not len(both):
            continue
        batch = both.batch(np.arange(len(both)), 100)
        for at in range(len(clicks), len(both)):
            seen += 1
            user, time = int(both.user[at]), int(both.time[at])
            earlier = [
                int(i) for u, i, t in zip(events.user, events.item, events.time, strict=True) if u == user and t < time
            ]
            history = batch.query.history[at]
            assert history[history != 0].tolist() == earlier
            if split.name == "time-cut":
                assert part == (time >= 12) + (time >= 18)
    assert seen == len(shown)


def test_leave_last_two_out_puts_an_impression_where_the_next_click_is(tmp_path: Path) -> None:
    events = pl.DataFrame({"user_id": [1] * 4, "item_id": [1, 2, 3, 4], "timestamp": [10, 20, 30, 40]})
    shown = pl.DataFrame({"user_id": [1] * 5, "item_id": [5] * 5, "timestamp": [5, 15, 25, 35, 45]})
    dataset = Dataset.write(tmp_path / "data", Interactions.of(events, impressions=shown, source="test"))
    split = leave_last_two_out(dataset)
    times = {part: Examples.of(dataset, split, part, impressions=True).time.tolist() for part in Part}
    assert times == {Part.TRAIN: [10, 20, 5, 15], Part.VALID: [30, 25], Part.TEST: [40, 35, 45]}


def test_labels_come_from_the_log(dataset: Dataset) -> None:
    split = time_cut(dataset, valid_from=12, test_from=18)
    label = np.arange(len(dataset.events), dtype=np.float32) % 2
    examples = Examples.of(dataset, split, Part.TRAIN, label=label)
    assert examples.label.tolist() == label[split.rows(Part.TRAIN)].tolist()
