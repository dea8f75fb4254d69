"""EASE (Steck, WWW 2019): linear weights between items in closed form, and what they would be without a given user.

Shape letters: B queries, L history items, N items per query, m items with weights, n a user's train events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from corral.data.batches import Query
from corral.data.dataset import Dataset
from corral.data.split import Part, Split
from corral.data.tables import Tables
from corral.data.vocabulary import FIRST_ROW

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Own events of users looked up together, and users whose share is worked out together.
_OWN, _USERS = 1 << 13, 1024


class LinearItems(Tables):
    """Item-to-item weights w(j -> i) = -P[j, i] / P[i, i], j != i, with P = (X^T X + lambda I)^-1.

    X is the binary matrix of users and items of train events: w is the ridge regression of every item on all others.

    **A user's own events never speak about that user** in :meth:`between`, as in ``CoVisitation``. Without the
    user's row x of X, exactly (Sherman and Morrison): P_u = P + (P x)(P x)^T / (1 - x^T P x).

    Also a ``Retriever`` of m dimensions, the user's own events left in: queries are their history's items, item
    vectors the columns of w.

    Memory: 4 m^2 bytes, and four times as much to fit, in a time that grows with m^3 (10,000 items: a minute or two);
    hence only the items with the most train events have weights. All others: 0.

    Args:
        inverse: P [1 + m, 1 + m]; row and column 0 are those of items without weights, and zero but for P[0, 0] = 1.
        place: 0, or where an item row stands in P [M], int64.
        own: places of each user's distinct train items, by user [n].
        offsets: first of each user row in ``own`` [U + 1].
        share: x^T P x of each user row [U].
    """

    inverse: Tensor
    place: Tensor
    own: Tensor
    offsets: Tensor
    share: Tensor

    def __init__(self, inverse: Tensor, place: Tensor, own: Tensor, offsets: Tensor, share: Tensor) -> None:
        super().__init__()
        self.register_buffer("inverse", inverse)
        self.register_buffer("place", place)
        self.register_buffer("own", own)
        self.register_buffer("offsets", offsets)
        self.register_buffer("share", share)

    @classmethod
    def of(
        cls, dataset: Dataset, split: Split, *, regularisation: float = 20.0, max_items: int = 10_000
    ) -> LinearItems:
        """Fits the train events of a split.

        Args:
            dataset: the events.
            split: only its train events count.
            regularisation: lambda, > 0: about so many users must agree before a weight is large.
            max_items: m at most.
        """
        from scipy.sparse import csr_array

        if regularisation <= 0.0 or max_items < 1:
            raise ValueError(f"regularisation={regularisation}, max_items={max_items}: both must be positive")
        rows = split.rows(Part.TRAIN)
        users, items = (
            np.asarray(column)[rows].astype(np.int64) for column in (dataset.events.user, dataset.events.item)
        )
        counts = np.bincount(items, minlength=dataset.n_items)
        # Most frequent first, equal ones by item row.
        kept = np.lexsort((np.arange(len(counts)), -counts))[:max_items]
        kept = np.sort(kept[(counts[kept] > 0) & (kept >= FIRST_ROW)])
        place = np.zeros(dataset.n_items, dtype=np.int64)
        place[kept] = np.arange(1, len(kept) + 1)
        pairs = np.unique(users * (len(kept) + 1) + place[items])
        user, own = pairs // (len(kept) + 1), pairs % (len(kept) + 1)
        user, own = user[own > 0], own[own > 0]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=dataset.n_users))])
        matrix = csr_array((np.ones(len(own)), own, offsets), shape=(dataset.n_users, len(kept) + 1))
        inverse = _inverse(matrix, regularisation)
        share = np.concatenate([_share(matrix[at : at + _USERS], inverse) for at in range(0, dataset.n_users, _USERS)])
        found = (np.ascontiguousarray(inverse, np.float32), place, own, offsets, share.astype(np.float32))
        return cls(*(torch.from_numpy(column) for column in found))

    @classmethod
    def empty(cls, num_items: int) -> LinearItems:
        """Nothing is known; what was saved is loaded into it."""
        none = torch.zeros(0, dtype=torch.int64)
        return cls(torch.ones(1, 1), torch.zeros(num_items).long(), none, none, torch.zeros(0))

    @torch.no_grad()
    def between(self, user: Tensor, history: Tensor, items: Tensor) -> Tensor:
        """w(h -> i) of each history item and item, as if the user's train events had never been.

        Args:
            user: user rows [B].
            history: item rows [B, L], 0-padded.
            items: item rows [B, N].

        Returns:
            [B, N, L]; 0 at padding, where an item meets itself, and for items without weights.
        """
        past, asked = self.place[history], self.place[items]
        both = torch.cat([past, asked], 1)
        first, stop = self.offsets[user], self.offsets[user + 1]
        own = both.new_zeros(both.shape, dtype=self.inverse.dtype)  # (P x) at past and asked
        # Event by event, not padded to the user who has most of them.
        owner = torch.repeat_interleave(torch.arange(len(user), device=user.device), stop - first)
        at = torch.arange(len(owner), device=user.device) + (first - (stop - first).cumsum(0) + stop - first)[owner]
        for rows, places in zip(owner.split(_OWN), self.own[at].split(_OWN), strict=True):
            own.index_add_(0, rows, self.inverse[places[:, None], both[rows]])
        own = own.masked_fill(both == 0, 0.0)
        past_own, asked_own = own[:, : past.shape[1]], own[:, past.shape[1] :]
        left = 1.0 - self.share[user]
        found = self.inverse[asked[:, :, None], past[:, None, :]]
        found = found + asked_own[:, :, None] * (past_own / left[:, None])[:, None, :]
        diagonal = self.inverse[asked, asked] + asked_own.square() / left[:, None]
        hidden = (past == 0)[:, None, :] | (asked == 0)[:, :, None] | (asked[:, :, None] == past[:, None, :])
        return (-found / diagonal[:, :, None]).masked_fill(hidden, 0.0)

    def encode_queries(self, query: Query) -> Tensor:
        """Which items the history holds [B, m]."""
        held = self.inverse.new_zeros(len(query), len(self.inverse))
        return held.scatter_(1, self.place[query.history], 1.0)[:, 1:]

    def encode_items(self, items: Tensor) -> Tensor:
        """w(. -> i) [..., m] of item rows [...]."""
        place = self.place[items]
        weights = -self.inverse[place] / self.inverse[place, place][..., None]
        return weights.scatter(-1, place[..., None], 0.0)[..., 1:]

    def renumbered(self, moved: Tensor, num_items: int) -> LinearItems:
        """The same weights for a longer catalogue; ``moved`` [old rows] says where each item row went."""
        place = self.place.new_zeros(num_items)
        place[moved] = self.place
        return LinearItems(self.inverse, place, self.own, self.offsets, self.share)


def _inverse(matrix: csr_array, regularisation: float) -> np.ndarray:
    """P [1 + m, 1 + m], float64, of X [U, 1 + m], whose column 0 is empty."""
    gram = torch.from_numpy((matrix.T @ matrix).toarray())
    gram.diagonal().add_(regularisation)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    inverse[0, 0] = 1.0
    return inverse.numpy()


def _share(matrix: csr_array, inverse: np.ndarray) -> np.ndarray:
    """x^T P x of each row x [u]."""
    return np.asarray((matrix * (matrix @ inverse)).sum(1)).ravel()
