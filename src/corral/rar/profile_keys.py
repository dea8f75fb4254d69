"""ProfileKeys: what people met and what they liked of it, as keys; encoded from histories alone.

Shape letters: U user rows, M item rows, D key size, B queries, L history length, S snapshots, k kinds of key.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from corral.data.tables import Tables
from corral.rar.time_rules import TimeRule


class ProfileKeys(Tables):
    """Behaviour profiles, snapshot by snapshot: what people met, and what they liked of it.

    Of no paper: corral's own choice. For each snapshot, from its train events alone, two truncated singular value
    decompositions give an item k = 2 vectors: of who met it (each event 1, divided by the roots of the user's and the
    item's counts), and of who liked it (each event its value, divided by the root of the item's count + 5). A user's
    vectors are sums over a history of the items' vectors, the second one weighed by the values: **history-only
    encoders**, so people never seen in training have keys too. By blocks a row's own event is in none of its own
    inputs. By folds and static a user's one key holds what he met at that row, too; by folds no value goes into it.

    Args:
        item_vectors: [S, M, 2, D], not scaled to unit length.
        user_vectors: of the pool's users, and of those who ask it, of unit length or zero [S, U, 2, D].
        centres: the mean first vector of each snapshot's users, taken off before it is scaled [S, D].
    """

    live = False
    item_vectors: Tensor
    user_vectors: Tensor
    centres: Tensor

    def __init__(self, item_vectors: Tensor, user_vectors: Tensor, centres: Tensor) -> None:
        super().__init__()
        self.register_buffer("item_vectors", item_vectors)
        self.register_buffer("user_vectors", user_vectors)
        self.register_buffer("centres", centres)

    @classmethod
    def empty(cls) -> ProfileKeys:
        """Nobody known; saved keys are loaded into it."""
        return cls(torch.zeros(0, 0, 2, 0), torch.zeros(0, 0, 2, 0), torch.zeros(0, 0))

    @classmethod
    def fit(
        cls,
        user: np.ndarray,
        item: np.ndarray,
        time: np.ndarray,
        value: np.ndarray,
        *,
        num_users: int,
        num_items: int,
        rule: TimeRule,
        size: int = 32,
        history_length: int = 100,
        seed: int = 0,
    ) -> ProfileKeys:
        """Keys of every snapshot from its train events.

        Args:
            user, item, time: of the train events [n].
            value: of the train events [n]: what the event said beyond what was expected, about -1 .. 1; see
                ``residuals``.
            num_users, num_items: rows of the vocabularies.
            rule: the snapshots.
            size: D.
            history_length: latest events of a user's profile.
            seed: of the decompositions.
        """
        from scipy.sparse import csr_matrix

        items = np.zeros((rule.snapshots, num_items, 2, size), dtype=np.float32)
        users = np.zeros((rule.snapshots, num_users, 2, size), dtype=np.float32)
        centres = np.zeros((rule.snapshots, size), dtype=np.float32)
        order = np.lexsort((time, user))
        user, item, time, value = (np.asarray(column)[order] for column in (user, item, time, value))
        for snapshot in range(rule.snapshots):
            kept = rule.holds(snapshot, user, time)
            if not kept.any():
                continue
            u, i, v = user[kept].astype(np.int64), item[kept].astype(np.int64), value[kept].astype(np.float32)
            items[snapshot] = spectral_items(u, i, v, num_users, num_items, size=size, seed=seed)
            pool = np.bincount(u, minlength=num_users) > 0
            told = rule.describes(snapshot, user, time)
            u, i, v = user[told].astype(np.int64), item[told].astype(np.int64), value[told].astype(np.float32)
            latest = _latest(u, history_length)
            counts = np.bincount(u[latest], minlength=num_users)
            who = csr_matrix((np.ones(len(latest)), (u[latest], np.arange(len(latest)))), (num_users, len(latest)))
            users[snapshot, :, 0] = who @ items[snapshot, i[latest], 0] / np.maximum(counts, 1)[:, None]
            # Folds: who asks is known by all his events, the row's own among them, whose label must not come back.
            if rule.fold is None:
                users[snapshot, :, 1] = who @ (items[snapshot, i[latest], 1] * v[latest, None])
            centres[snapshot] = users[snapshot, pool, 0].mean(0)
            users[snapshot, counts > 0, 0] -= centres[snapshot]
        units = functional.normalize(torch.from_numpy(users), dim=-1)
        return cls(torch.from_numpy(items), units, torch.from_numpy(centres))

    def renumbered(self, moved: Tensor, num_items: int) -> ProfileKeys:
        """The same keys for a longer catalogue; new items have none. ``moved`` [old rows]: where each item row went."""
        snapshots, _, kinds, size = self.item_vectors.shape
        items = self.item_vectors.new_zeros(snapshots, num_items, kinds, size)
        items[:, moved] = self.item_vectors
        return ProfileKeys(items, self.user_vectors, self.centres)

    def users(self, snapshot: int) -> Tensor:
        """See ``KeySource``: both vectors [U, 2 D], of unit length each."""
        return self.user_vectors[snapshot].flatten(1)

    def items(self, snapshot: int) -> Tensor:
        """See ``KeySource``: both vectors [M, 2 D], of unit length each."""
        return functional.normalize(self.item_vectors[snapshot], dim=-1).flatten(1)

    def encode(self, snapshot: Tensor, present: Tensor, vectors: Sequence[Tensor], values: Tensor) -> Tensor:
        """Keys of queries, as of each event [B, 2, D], of unit length each or zero.

        Args:
            snapshot: which one each query may see [B].
            present: where the history has an item [B, L].
            vectors: both of the history's items in that snapshot, each [B, L, D].
            values: what the user said of them [B, L]; 0 where that is not known.
        """
        there = present.to(vectors[0].dtype)
        met = torch.bmm(there[:, None], vectors[0])[:, 0] / there.sum(1, keepdim=True).clamp(min=1)
        met = (met - self.centres[snapshot]) * present.any(1, keepdim=True)
        liked = torch.bmm((values * there)[:, None], vectors[1])[:, 0]
        return functional.normalize(torch.stack([met, liked], 1), dim=-1)


def gather_kinds(table: Tensor, at: Tensor) -> list[Tensor]:
    """Rows of a table [S, n, 2, D] by their flat number [...], kind by kind, each [..., D].

    One copy each, in the order that products need.
    """
    return [functional.embedding(2 * at + kind, table.view(-1, table.shape[-1])) for kind in range(2)]


def _latest(users: np.ndarray, length: int) -> np.ndarray:
    """Positions of each user's last ``length`` events, of events sorted by user and then time."""
    stops = np.append(np.flatnonzero(users[1:] != users[:-1]) + 1, len(users))
    stop_of = np.repeat(stops, np.diff(np.append(0, stops)))
    return np.flatnonzero(stop_of - np.arange(len(users)) <= length)


def spectral_items(
    user: np.ndarray, item: np.ndarray, value: np.ndarray, num_users: int, num_items: int, *, size: int, seed: int
) -> np.ndarray:
    """The two item vectors of ``ProfileKeys`` [M, 2, D], float32, scaled by the singular values.

    Args:
        user, item: rows of the events [n], int64.
        value: of the events [n].
        num_users, num_items: U and M.
        size: D; padded with zeros where the log is smaller.
        seed: of the random start.
    """
    # Only fitting needs them: a server does without their hundred megabytes.
    from scipy.sparse import csr_matrix
    from sklearn.utils.extmath import randomized_svd

    of_users = np.maximum(np.bincount(user, minlength=num_users), 1)
    of_items = np.maximum(np.bincount(item, minlength=num_items), 1)
    weights = (1.0 / np.sqrt(of_users[user] * of_items[item]), value / np.sqrt(of_items[item] + 5.0))
    vectors = np.zeros((num_items, 2, size), dtype=np.float32)
    rank = min(size, num_users - 1, num_items - 1)
    for kind, weight in enumerate(weights):
        matrix = csr_matrix((weight.astype(np.float32), (user, item)), (num_users, num_items))
        _, strengths, right = randomized_svd(matrix, rank, random_state=seed)
        vectors[:, kind, :rank] = right.T * strengths
    # Those without an event come out as rounding noise, which would be somebody's nearest at unit length.
    vectors[np.bincount(item, minlength=num_items) == 0] = 0.0
    return vectors
