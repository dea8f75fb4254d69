"""users_like: whom a person may mean who types the beginning of an id."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from corral.data.vocabulary import FIRST_ROW
from corral.serving.serving_tables import ServingTables
from corral.studio.page import User

MOST = 24


def users_like(tables: ServingTables, text: str) -> list[User]:
    """The first users, in the order of ids, whose id begins with a text and who have a history.

    Args:
        tables: of the bundle.
        text: "" for anybody.
    """
    ids = tables.users.ids
    begins = pl.Series(pc.starts_with(ids.cast(pa.large_string()), text)).to_numpy()
    lengths = tables.histories.lengths(np.arange(FIRST_ROW, len(tables.users)))
    found = np.flatnonzero(begins & (lengths > 0))[:MOST]
    return [User(str(ids[int(place)].as_py()), int(lengths[place])) for place in found]
