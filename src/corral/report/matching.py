"""Matched: which look-alike users and recall items RAR's ranker asked about an item, and its matching matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from corral.rar.ranker import Enriched
from corral.report import charts
from corral.report.blocks import Chart
from corral.report.number_text import decimal


@dataclass(frozen=True)
class Matched:
    """RAR's evidence for one item of one list.

    Attributes:
        item: whose neighbours were asked.
        users: look-alike users, external ids [Ku].
        items: recall items, titles or ids [Ki].
        matrix: G [Ku, Ki]: is this kind of user interested in this kind of item, in (0, 1).
    """

    item: str
    users: Sequence[str]
    items: Sequence[str]
    matrix: np.ndarray

    def chart(self, name: str) -> Chart:
        """The matrix as a heat map; names that stand twice are numbered."""
        users = [f"user {user}" for user in self.users]
        items = [f"{place}. {title}" for place, title in enumerate(self.items, 1)]
        cells = [
            {"user": user, "item": item, "interest": float(self.matrix[row, column])}
            for row, user in enumerate(users)
            for column, item in enumerate(items)
        ]
        row, column = (int(place) for place in np.unravel_index(self.matrix.argmax(), self.matrix.shape))
        label = (
            f"The matching matrix for {self.item}: {len(users)} look-alike users by {len(items)} recall items; the "
            f"greatest interest, {decimal(float(self.matrix[row, column]), 3)}, is {users[row]}'s in "
            f"{self.items[column]}."
        )
        spec = charts.heat_map(
            cells,
            "item",
            "user",
            "interest",
            label=label,
            x_title="recall items",
            y_title="look-alike users",
            value_title="interest, G",
        )
        return Chart(name, f"Whom and what the ranker asked about {self.item}, and what it made of them", label, spec)


def matched(
    enriched: Enriched, item: str, user_name: Callable[[int], str], item_name: Callable[[int], str]
) -> Matched | None:
    """What the ranker saw of one query and item; None where it found no look-alikes or no recall items.

    Args:
        enriched: of one query and one item.
        item: what people call it.
        user_name, item_name: what people call a row.
    """
    users, items = (found[found > 0].tolist() for found in (enriched.user_rows[0], enriched.item_rows[0, 0]))
    if not users or not items:
        return None
    held = enriched.user_rows[0] > 0, enriched.item_rows[0, 0] > 0
    matrix = torch.sigmoid(enriched.matching.logits[0, 0].float())[held[0]][:, held[1]].detach().cpu().numpy()
    return Matched(item, [user_name(row) for row in users], [item_name(row) for row in items], matrix)
