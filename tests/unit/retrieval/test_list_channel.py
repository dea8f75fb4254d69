"""ListChannel: given lists as recall, with filters that move the items below up."""

from __future__ import annotations

import numpy as np
import torch

from corral.data.batches import Query
from corral.retrieval.channels import RecallChannel
from corral.retrieval.list_channel import ListChannel

# users 2, 3 and 5; user 4 has no list
CHANNEL = ListChannel(np.array([7, 3, 9, 4, 8]), np.array([0, 0, 0, 3, 4, 4, 5]))


def asked(*users: int) -> Query:
    n = len(users)
    zeros = torch.zeros(n, dtype=torch.int64)
    return Query(torch.tensor(users, dtype=torch.int64), zeros - 1, torch.zeros(n, 1, dtype=torch.int64), zeros)


def test_each_user_has_the_own_list() -> None:
    assert isinstance(CHANNEL, RecallChannel)
    found = CHANNEL.recall(asked(3, 2, 4, 5, 2, 1), 4)
    assert found.items.tolist() == [
        [4, 0, 0, 0],
        [7, 3, 9, 0],
        [0, 0, 0, 0],
        [8, 0, 0, 0],
        [7, 3, 9, 0],
        [0, 0, 0, 0],
    ]
    inf = torch.inf
    assert found.scores[:2].tolist() == [[0, -inf, -inf, -inf], [0, -1, -2, -inf]]
    assert CHANNEL.recall(asked(2), 2).items.tolist() == [[7, 3]]
    assert CHANNEL.recall(asked(5), 2).items.tolist() == [[8, 0]]
    assert CHANNEL.recall(asked(4), 1).items.tolist() == [[0]]


def test_filters_move_the_rest_up() -> None:
    hidden = torch.tensor([[3, 0], [4, 9]])
    assert CHANNEL.recall(asked(2, 3), 3, hidden).items.tolist() == [[7, 9, 0], [0, 0, 0]]
    allow = torch.ones(9, dtype=torch.bool)
    allow[7] = False
    # row 9 lies beyond the end of the mask: not allowed
    assert CHANNEL.recall(asked(2, 5), 2, None, allow).items.tolist() == [[3, 0], [8, 0]]
