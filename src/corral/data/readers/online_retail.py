"""Online Retail (UCI 352): the invoices of a British online gift shop.

A purchase is a line with a known customer, a positive quantity and price, of an invoice that is not a
cancellation, for something that is goods (see ``NON_GOODS``). Everything else is left out, not counted as
bad.

Kept: the quantity as value; time in minutes since 1970 (the shop's local time: the file names no zone). Of
customers the country of their first purchase. Of items the title (text), its words, and the price of the
first purchase, which is known when the item is first sold: a median over all rows would know the future.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import polars as pl

from corral.data.interactions import Interactions
from corral.data.readers.delimited import folder_of, needed_file, read_delimited

LICENCE = (
    "CC BY 4.0. Chen, D. (2015). Online Retail [Dataset]. UCI Machine Learning Repository. "
    "https://doi.org/10.24432/C5BW33"
)
FILES = ("online_retail.csv", "OnlineRetail.csv", "Online Retail.csv", "data.csv")
COLUMNS = (
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
)

NON_GOODS: dict[str, str] = {
    "POST": "postage",
    "DOT": "postage of the shop's other site, dotcomgiftshop",
    "C2": "carriage",
    "23444": "next day carriage: a service, though its code looks like goods",
    "23574": "packing charge: likewise",
    "M": "manual entry of the book-keeping",
    "m": "manual entry, once in lower case",
    "BANK CHARGES": "bank charges",
    "AMAZONFEE": "fee of a market place",
    "CRUK": "commission to a charity",
    "D": "discount",
    "S": "samples",
    "B": "correction of a bad debt",
    "PADS": "cushion pads entered at a price of 0.001: no sale",
    "gift_0001_10": "gift voucher",
    "gift_0001_20": "gift voucher",
    "gift_0001_30": "gift voucher",
    "gift_0001_40": "gift voucher",
    "gift_0001_50": "gift voucher",
}
"""Stock codes that are no goods, and what they are. Of the codes that do not start with five digits only
DCGS... is goods (of dotcomgiftshop; none was ever bought by a known customer)."""

_MIN_WORD_LETTERS = 3


def read(
    path: str | Path, *, non_goods: Collection[str] = NON_GOODS.keys(), skip_bad_rows: bool = False
) -> Interactions:
    """Reads the purchases out of the invoices.

    Args:
        path: the file (CSV, plain or ``.gz``; the maker's spreadsheet saved as CSV), or its directory.
        non_goods: stock codes to leave out; ``()`` keeps all 397,884 purchases.
        skip_bad_rows: drop, count and list bad rows instead of raising.

    Raises:
        ValueError: naming file, line, value and what to do.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    folder = folder_of(path)
    file = needed_file(folder, FILES) if path.is_dir() else path
    if file.suffix.lower() in (".xlsx", ".xls"):
        raise ValueError(f"{file}: a spreadsheet; save it as CSV (UTF-8) named online_retail.csv, and read that")
    table = read_delimited(file, ",", keep=COLUMNS, header=True, quoted=True, skip_bad_rows=skip_bad_rows)
    table = table.typed(
        {"Quantity": pl.Int64, "UnitPrice": pl.Float64},
        required=("InvoiceNo", "StockCode", "Quantity", "InvoiceDate", "UnitPrice"),
        skip_bad_rows=skip_bad_rows,
    )
    time = _minutes(table.frame["InvoiceDate"])
    customer = table.frame["CustomerID"].str.strip_suffix(".0").cast(pl.Int64, strict=False)
    problems = table.problems()
    raw = table.frame["InvoiceDate"]
    problems.add(time.is_null(), "InvoiceDate", raw, "not a date such as 2010-12-01 08:26:00")
    raw = table.frame["CustomerID"]
    problems.add(raw.is_not_null() & customer.is_null(), "CustomerID", raw, "not a customer's number")
    columns = table.frame.with_columns(timestamp=time, user_id=customer, item_id=pl.col("StockCode"))
    table = table.without(problems, skip_bad_rows, columns)
    table = table.where(
        pl.col("user_id").is_not_null()
        & (pl.col("Quantity") > 0)
        & (pl.col("UnitPrice") > 0)
        & ~pl.col("InvoiceNo").str.starts_with("C")
        & ~pl.col("item_id").is_in(list(non_goods))
    )
    if table.frame.is_empty():
        raise ValueError(f"{file}: no purchases: no row has a customer, a quantity and price above 0")
    purchases = table.frame
    # A stable sort: rows of the same minute keep the file's order, so "first" is well defined.
    by_time = purchases.sort("timestamp", maintain_order=True)
    users = by_time.group_by("user_id", maintain_order=True).agg(country=pl.col("Country").first())
    items = by_time.group_by("item_id", maintain_order=True).agg(
        title=pl.col("Description").drop_nulls().first().str.strip_chars(),
        price=pl.col("UnitPrice").first().cast(pl.Float32),
    )
    interactions = Interactions.of(
        purchases.select("user_id", "item_id", "timestamp", value=pl.col("Quantity").cast(pl.Float32)),
        user_features=users.sort("user_id"),
        item_features=with_words(items.sort("item_id")),
        text_columns=("title",),
        time_unit="minutes",
        source=str(file),
        licence=LICENCE,
        line_offset=table.line_of,
        skip_bad_rows=skip_bad_rows,
        skipped=table.skipped,
    )
    return replace(interactions, source=f"Online Retail (UCI 352), {file.name}")


def with_words(items: pl.DataFrame) -> pl.DataFrame:
    """Adds the distinct words of the title, in their order, as a multi-valued feature."""
    words = pl.col("title").fill_null("").str.to_lowercase().str.extract_all(rf"[a-z]{{{_MIN_WORD_LETTERS},}}")
    return items.with_columns(words=words.list.unique(maintain_order=True))


def _minutes(dates: pl.Series) -> pl.Series:
    """Minutes since 1970; null where it is no date. Both forms in circulation are understood."""
    text = dates.str.strip_chars()
    parsed = text.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False, time_unit="us")
    if parsed.null_count():
        american = text.str.to_datetime("%m/%d/%Y %H:%M", strict=False, time_unit="us")
        parsed = parsed.zip_with(parsed.is_not_null(), american)
    return (parsed.dt.epoch("s") // 60).alias("timestamp")
