"""Ids without a train event: they get what was learned for "unknown", not the noise their rows started with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from corral.data.vocabulary import FIRST_ROW, UNKNOWN


@runtime_checkable
class HasIdTables(Protocol):
    """A model that embeds ids."""

    def id_tables(self) -> tuple[Sequence[nn.Embedding], Sequence[nn.Embedding]]:
        """Its tables by user row, and its tables by item row."""
        ...


@runtime_checkable
class HoldsSomeRows(Protocol):
    """A table of which this process holds some rows alone."""

    def copy_row(self, row: int, to: Tensor) -> None:
        """Copies a row into all rows with True in ``to`` [rows], whoever holds them."""
        ...


@torch.no_grad()
def share_unknown(model: HasIdTables, users_seen: Tensor, items_seen: Tensor) -> None:
    """Copies row 1 (unknown) into the rows of ids that no train event names.

    Args:
        model: its id tables are changed.
        users_seen: whether each user row has a train event [U], bool.
        items_seen: whether each item row has one [M], bool.
    """
    for tables, seen in zip(model.id_tables(), (users_seen, items_seen), strict=True):
        cold = ~seen
        cold[:FIRST_ROW] = False
        for table in tables:
            if isinstance(table, HoldsSomeRows):
                table.copy_row(UNKNOWN, cold)
                continue
            table.weight[cold.to(table.weight.device)] = table.weight[UNKNOWN].clone()
