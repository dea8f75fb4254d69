"""Lib-SibGMU: loans, titles with two spellings, the class in the book's id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from corral.data.readers import lib_sibgmu

Write = Callable[..., Path]

LOANS = ",id,id_book,date,semestr\n1,E1,616.0/Т370-1,2016-02-05,0\n2,E1,611/М2,2016-02-05,0\n3,E2,X1,2016-02-06,1\n"
TITLES = 'id_book,name_book\n,(Посещение)\n616.0/Т370-1,"Тепляков, А. Т. Книга"\n616.0/Т370-1,другая\n611/М2,\n'


def test_loans(write: Write) -> None:
    write("rslib_test.csv", LOANS)
    read = lib_sibgmu.read(write("name_book.csv.gz", TITLES))
    assert read.events.rows() == [("E1", "616.0/Т370-1", 16836), ("E1", "611/М2", 16836), ("E2", "X1", 16837)]
    assert read.item_features is not None
    assert read.item_features.rows() == [
        ("611/М2", "611", None),
        ("616.0/Т370-1", "616.0", "Тепляков, А. Т. Книга"),
        ("X1", None, None),
    ]
    assert read.time_unit == "days"


def test_bad_date(write: Write) -> None:
    folder = write("rslib_test.csv", LOANS + "4,E2,X1,05.02.2016,1\n5,,X1,2016-02-05,1\n")
    with pytest.raises(ValueError, match=r"line 6, column 'id': None: missing"):
        lib_sibgmu.read(folder)
    read = lib_sibgmu.read(folder, skip_bad_rows=True)
    assert (len(read), read.skipped.count) == (3, 2)
    write("rslib_test.csv", LOANS + "4,E2,X1,05.02.2016,1\n")
    with pytest.raises(ValueError, match=r"line 5, column 'date': '05.02.2016': not a date"):
        lib_sibgmu.read(folder)


def test_real(real: Callable[[str], Path]) -> None:
    read = lib_sibgmu.read(real("lib-sibgmu"))
    assert len(read) == 24_374
    assert read.events["user_id"].n_unique() == 1_331
    assert read.events["item_id"].n_unique() == 1_004
    assert len(read) - len(read.events.select("user_id", "item_id").unique()) == 3_272
    assert (read.events["timestamp"].min(), read.events["timestamp"].max()) == (15954, 18984)
