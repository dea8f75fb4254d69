"""Online Retail: which rows are purchases, and what is known of items and customers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from corral.data.readers import online_retail

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
ROWS = (
    "1,85123A,WHITE HEART,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom\n"
    '1,71053,"LANTERN, METAL",2,2010-12-01 08:26:00,3.39,17850.0,United Kingdom\n'
    "2,85123A,white heart new,1,2010-12-02 09:00:00,9.99,12347,France\n"
    "3,85123A,WHITE HEART,1,2010-12-03 09:00:00,2.55,17850.0,France\n"
    "C4,85123A,WHITE HEART,-6,2010-12-03 10:00:00,2.55,17850.0,United Kingdom\n"
    "5,85123A,WHITE HEART,6,2010-12-03 10:00:00,2.55,,United Kingdom\n"
    "6,85123A,WHITE HEART,6,2010-12-03 10:00:00,0.0,17850.0,United Kingdom\n"
    "7,POST,POSTAGE,1,2010-12-03 10:00:00,18.0,17850.0,France\n"
    "8,23444,Next Day Carriage,1,2010-12-03 10:00:00,15.0,17850.0,France\n"
)


def file(tmp_path: Path, rows: str) -> Path:
    path = tmp_path / "online_retail.csv"
    path.write_text(HEADER + rows)
    return path


def test_purchases_of_goods_only(tmp_path: Path) -> None:
    read = online_retail.read(file(tmp_path, ROWS))
    assert read.events.rows() == [
        (17850, "85123A", 21519866, 6.0),
        (17850, "71053", 21519866, 2.0),
        (12347, "85123A", 21521340, 1.0),
        (17850, "85123A", 21522780, 1.0),
    ]
    assert read.time_unit == "minutes"
    assert read.skipped.count == 0
    assert "CC BY 4.0" in read.licence
    every = online_retail.read(tmp_path, non_goods=())
    assert len(every) == 6


def test_what_is_known_of_items_and_customers_is_that_of_the_first_purchase(tmp_path: Path) -> None:
    read = online_retail.read(file(tmp_path, ROWS))
    assert read.user_features is not None
    assert read.user_features.rows() == [(12347, "France"), (17850, "United Kingdom")]
    assert read.item_features is not None
    assert read.item_features["price"].to_list() == pytest.approx([3.39, 2.55])
    assert read.item_features.drop("price").rows() == [
        ("71053", "LANTERN, METAL", ["lantern", "metal"]),
        ("85123A", "WHITE HEART", ["white", "heart"]),
    ]


def test_american_dates_are_understood(tmp_path: Path) -> None:
    rows = "1,85123A,WHITE HEART,6,12/1/2010 8:26,2.55,17850,United Kingdom\n"
    assert online_retail.read(file(tmp_path, rows)).events["timestamp"].to_list() == [21519866]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        (3, "six", r"line 11, column 'Quantity': 'six': not an integer"),
        (4, "yesterday", r"line 11, column 'InvoiceDate': 'yesterday': not a date"),
        (5, "", r"line 11, column 'UnitPrice': None: missing"),
        (6, "bob", r"line 11, column 'CustomerID': 'bob': not a customer's number"),
    ],
)
def test_bad_rows(tmp_path: Path, field: int, value: str, said: str) -> None:
    fields = ROWS.splitlines()[0].split(",")
    fields[field] = value
    path = file(tmp_path, ROWS + ",".join(fields) + "\n")
    with pytest.raises(ValueError, match=rf"online_retail.csv, {said}"):
        online_retail.read(path)
    read = online_retail.read(path, skip_bad_rows=True)
    assert len(read) == 4
    assert read.skipped.count == 1
    assert read.skipped.examples[0].row == 11


def test_no_purchases(tmp_path: Path) -> None:
    rows = "C4,85123A,WHITE HEART,-6,2010-12-03 10:00:00,2.55,17850.0,United Kingdom\n"
    with pytest.raises(ValueError, match="no purchases"):
        online_retail.read(file(tmp_path, rows))


def test_spreadsheet_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "Online Retail.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match="save it as CSV"):
        online_retail.read(tmp_path / "Online Retail.xlsx")


def test_real(real: Callable[[str], Path]) -> None:
    every = online_retail.read(real("online-retail"), non_goods=())
    assert len(every) == 397_884
    assert every.events["user_id"].n_unique() == 4_338
    assert every.events["item_id"].n_unique() == 3_665
    assert every.user_features is not None
    assert every.user_features["country"].n_unique() == 37
    goods = online_retail.read(real("online-retail"))
    assert len(goods) == 396_244
    left_out = every.events.filter(~pl.col("item_id").is_in(goods.events["item_id"].unique().to_list()))
    assert set(left_out["item_id"].unique()) <= set(online_retail.NON_GOODS)
    assert goods.events["item_id"].str.contains(r"^\d{5}").all()
