"""Real data that comes with the package: the purchases of Online Retail (UCI 352), CC BY 4.0.

The files beside this one are made by ``tools/make_embedded_retail.py`` from the maker's invoices and are
exactly what ``corral.data.readers.online_retail.read`` gives for them; ``LICENSE.txt`` says whose they are
and what was changed.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import polars as pl

from corral.data.interactions import Interactions
from corral.data.readers.online_retail import LICENCE

NAME = "online-retail"
EVENTS, USERS, ITEMS = (
    "online_retail_events.parquet",
    "online_retail_users.parquet",
    "online_retail_items.parquet",
)


def online_retail() -> Interactions:
    """The 396,244 purchases of goods by 4,334 customers, 3,657 items, December 2010 to December 2011.

    Users have a country; items a title (text), words (multi-valued) and the price of their first purchase.
    """
    with as_file(files(__name__)) as folder:
        return read_folder(Path(folder))


def read_folder(folder: Path) -> Interactions:
    """As ``online_retail``, from files that ``write_folder`` wrote."""
    return Interactions.of(
        pl.read_parquet(folder / EVENTS),
        user_features=pl.read_parquet(folder / USERS),
        item_features=pl.read_parquet(folder / ITEMS),
        text_columns=("title",),
        time_unit="minutes",
        source="Online Retail (UCI 352), purchases of goods, as shipped with corral",
        licence=LICENCE,
    )


def write_folder(interactions: Interactions, folder: Path) -> None:
    """Writes the three files. One row group and the strongest compression: small, and read at once anyway."""
    assert interactions.user_features is not None, "customers have a country"
    assert interactions.item_features is not None, "items have a title"
    for name, frame in (
        (EVENTS, interactions.events),
        (USERS, interactions.user_features),
        (ITEMS, interactions.item_features),
    ):
        frame.write_parquet(folder / name, compression="zstd", compression_level=22, row_group_size=len(frame))
