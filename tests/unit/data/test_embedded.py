"""The real data that comes with the package."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal

from corral.data import embedded
from corral.data.readers import online_retail

FOLDER = Path(embedded.__file__).parent


def test_counts_and_speed() -> None:
    started = time.process_time()
    read = embedded.online_retail()
    assert time.process_time() - started < 1
    assert len(read) == 396_244
    assert read.events["user_id"].n_unique() == 4_334
    assert read.events["item_id"].n_unique() == 3_657
    assert not read.events["item_id"].is_in(list(online_retail.NON_GOODS)).any()
    assert read.item_features is not None
    assert read.item_features.columns == ["item_id", "title", "price", "words"]
    assert read.time_unit == "minutes"


def test_it_is_small_and_comes_with_its_licence() -> None:
    sizes = [(FOLDER / name).stat().st_size for name in (embedded.EVENTS, embedded.USERS, embedded.ITEMS)]
    assert sum(sizes) < 1_100_000
    licence = (FOLDER / "LICENSE.txt").read_text()
    assert "Chen, D. (2015). Online Retail [Dataset]. UCI Machine Learning Repository. CC BY 4.0." in licence
    assert "10.24432/C5BW33" in licence
    assert "Changes made" in licence


def test_it_is_what_the_reader_gives_for_the_makers_file(tmp_path: Path) -> None:
    root = os.environ.get("CORRAL_DATA")
    if not root or not (Path(root) / "online-retail").is_dir():
        pytest.skip("set CORRAL_DATA to the directory with the makers' files to test against them")
    embedded.write_folder(online_retail.read(Path(root) / "online-retail"), tmp_path)
    made, shipped = embedded.read_folder(tmp_path), embedded.online_retail()
    assert_frame_equal(made.events, shipped.events)
    assert made.user_features is not None
    assert made.item_features is not None
    assert shipped.user_features is not None
    assert shipped.item_features is not None
    assert_frame_equal(made.user_features, shipped.user_features)
    assert_frame_equal(made.item_features, shipped.item_features)
