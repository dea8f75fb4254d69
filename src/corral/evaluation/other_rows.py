"""OtherRows: a channel and a ranker of an older data set, asked in the rows of a newer one and as they stand.

Shape letters: B queries, N items per query, M items.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corral.data.batches import Query
from corral.data.candidates import Candidates
from corral.data.vocabulary import UNKNOWN, Vocabulary
from corral.evaluation.funnel import RankerCall
from corral.retrieval.channels import RecallChannel


class OtherRows:
    """How rows of the newer data set are called in the older one; what it lacks is its unknown.

    Args:
        users: of the older data set and of the newer.
        items: likewise.
        device: where both stages live.
    """

    def __init__(
        self, users: tuple[Vocabulary, Vocabulary], items: tuple[Vocabulary, Vocabulary], device: torch.device | str
    ) -> None:
        (old_users, new_users), (old_items, new_items) = users, items
        self.users, self.items, self.back = (
            torch.from_numpy(one.rows_in(other)).long().to(device)
            for one, other in ((new_users, old_users), (new_items, old_items), (old_items, new_items))
        )

    def query(self, query: Query) -> Query:
        """The same query in the older rows; its event is none of theirs."""
        return Query(
            self.users[query.user],
            torch.full_like(query.event, -1),
            self.items[query.history],
            query.time,
            query.features,
        )


class OtherRowsChannel:
    """A ``RecallChannel`` of the older data set.

    Args:
        channel: it.
        rows: of both.
    """

    def __init__(self, channel: RecallChannel, rows: OtherRows) -> None:
        self.channel, self.rows, self.name = channel, rows, channel.name

    def recall(self, query: Query, k: int, exclude: Tensor | None = None, allow: Tensor | None = None) -> Candidates:
        """See ``RecallChannel``; items that the newer data set lacks are never returned."""
        rows = self.rows
        wanted = rows.back != UNKNOWN
        if allow is not None:
            wanted = wanted & allow[rows.back]
        hidden = None if exclude is None else rows.items[exclude]
        found = self.channel.recall(rows.query(query), k, hidden, wanted)
        return Candidates(rows.back[found.items], found.scores)


class OtherRowsRanker(nn.Module):
    """A ranker of the older data set; an item that it lacks is its unknown item.

    Args:
        ranker: it.
        rows: of both.
    """

    def __init__(self, ranker: RankerCall, rows: OtherRows) -> None:
        super().__init__()
        self.ranker, self.rows = ranker, rows

    def forward(self, query: Query, items: Tensor) -> Tensor:
        """Logits [B, N] of item rows [B, N]."""
        return self.ranker(self.rows.query(query), self.rows.items[items])
