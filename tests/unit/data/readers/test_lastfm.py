"""HetRec Last.fm: dated tag assignments, listening counts, impossible dates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from corral.data.readers import lastfm

Write = Callable[..., Path]

TAGS = "userID\tartistID\ttagID\tday\tmonth\tyear\n"
ROWS = "2\t52\t13\t1\t4\t2009\n2\t52\t15\t1\t4\t2009\n2\t63\t13\t2\t4\t2009\n43\t52\t39\t1\t6\t1956\n"


def small(write: Write, rows: str = ROWS) -> Path:
    write("user_artists.dat", "userID\tartistID\tweight\n2\t51\t13883\n2\t52\t11690\n")
    write("artists.dat", 'id\tname\turl\tpictureURL\n51\tDuran "Duran\tx\ty\n52\tBjörk\tx\ty\n')
    return write("user_taggedartists.dat", TAGS + rows)


def test_one_event_for_user_artist_and_day(write: Write) -> None:
    read = lastfm.read(small(write))
    assert read.events.rows() == [(2, 52, 14335, 2.0), (2, 63, 14336, 1.0)]
    assert read.time_unit == "days"
    assert read.item_features is not None
    assert read.item_features.rows() == [(51, 'Duran "Duran'), (52, "Björk")]
    assert read.text_columns == {"name"}


def test_impossible_years_never_stop_the_reading_but_are_counted(write: Write) -> None:
    skipped = lastfm.read(small(write)).skipped
    assert skipped.count == 1
    assert skipped.examples[0].row == 5
    assert "1956" in str(skipped)


def test_bad_rows(write: Write) -> None:
    folder = small(write, ROWS + "2\t52\t13\t31\t2\t2009\n")
    with pytest.raises(ValueError, match=r"line 6, column 'day': '2009-2-31': not a date"):
        lastfm.read(folder)
    assert lastfm.read(folder, skip_bad_rows=True).skipped.count == 2
    small(write, ROWS + "2\trock\t13\t31\t2\t2009\n")
    with pytest.raises(ValueError, match=r"line 6, column 'artistID': 'rock': not an integer"):
        lastfm.read(folder)


def test_listening(write: Write) -> None:
    read = lastfm.read_listening(small(write))
    assert read.events.select("user_id", "item_id", "value").rows() == [(2, 51, 13883.0), (2, 52, 11690.0)]
    assert read.time_unit == "order"


def test_real(real: Callable[[str], Path]) -> None:
    read = lastfm.read(real("lastfm-2k"))
    assert read.skipped.count == 5
    assert read.events["value"].sum() + read.skipped.count == 186_479
    assert read.events["user_id"].n_unique() == 1_892
    assert read.events["item_id"].n_unique() == 12_523
    # Five of the 71,064 published pairs have no possible date at most.
    assert 71_059 <= len(read.events.select("user_id", "item_id").unique()) <= 71_064
    assert read.item_features is not None
    assert len(read.item_features) == 17_632
    listening = lastfm.read_listening(real("lastfm-2k"))
    assert len(listening) == 92_834
    assert listening.events["item_id"].n_unique() == 17_632
