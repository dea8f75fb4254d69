"""Where several processes refresh neighbours, each encodes, hashes and searches a share, and takes the others' word."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from corral.data.whole_batch import in_shares
from corral.rar.keys import GivenKeys
from corral.rar.neighbours import CataloguePools, Neighbours
from corral.rar.selection import Selected, SimHashSelector
from corral.rar.time_rules import TimeRule

USERS, ITEMS = 30, 26


class First:
    """The first of two processes; it hears from the other what that would say of its own rows."""

    def __init__(self) -> None:
        self.said: list[int] = []

    def share(self, count: int) -> slice:
        return slice(0, count // 2)

    def gathered(self, rows: Tensor) -> Tensor:
        self.said.append(len(rows))
        return torch.cat([rows, rows])

    def summed(self, part: Tensor) -> Tensor:
        raise AssertionError

    def total(self, number: int) -> int:
        raise AssertionError

    largest = before = total


class Counting(SimHashSelector):
    """A selector that notes how many queries it was asked."""

    asked = 0

    def search(self, queries: Tensor, k: int, exclude: Tensor | None = None) -> Selected:
        self.asked += len(queries)
        return super().search(queries, k, exclude)


def test_half_of_the_work_and_the_other_half_taken_over() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = GivenKeys(torch.randn(USERS, 5, generator=generator), torch.randn(ITEMS, 5, generator=generator))
    user, item = (2 + np.arange(60) % (rows - 2) for rows in (USERS, ITEMS))
    rule = TimeRule.static()
    pools = CataloguePools(user, item, np.arange(60), rule)
    tables = []
    for shares in (None, First()):
        selectors = Counting(64, seed=1), Counting(64, seed=2)
        neighbours = Neighbours(USERS, ITEMS, rule, look_alikes=3, recall_items=3)
        if shares is None:
            neighbours.refresh(keys, pools, selectors)
            assert [one.asked for one in selectors] == [USERS, ITEMS]
        else:
            with in_shares(shares):
                neighbours.refresh(keys, pools, selectors)
            assert [one.asked for one in selectors] == [USERS // 2, ITEMS // 2]
            # Codes of the pool, then neighbours: of users, of items.
            assert shares.said == [(USERS - 2) // 2, USERS // 2, (ITEMS - 2) // 2, ITEMS // 2]
        tables.append(neighbours.u2u[0])
    assert tables[1][: USERS // 2].equal(tables[1][USERS // 2 :])
    assert not tables[0][: USERS // 2].equal(tables[0][USERS // 2 :])
