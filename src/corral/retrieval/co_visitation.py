"""Co-visitation: which items are visited soon after which, counted on train events and nothing learned.

w(a -> b) = sum over users, over positions p < q of the user's train sequence with a at p and b at q and
q - p <= window, of 1 / (q - p).

**A user's own events never speak about that user.** Whatever is asked for a user, the user's own share of
w is taken out first: otherwise the clicked item of a train example would be found in its own counts, and
training would see evidence that no test query has. The rule is the same in training, evaluation and serving.

Shape letters: B queries, R history items asked about, N items per query, E pairs of the table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from corral.data.dataset import Dataset
from corral.data.split import Part, Split
from corral.data.vocabulary import FIRST_ROW

# Places in users' sequences looked at together.
_PLACES = 1 << 14
# Places searched for items together: 16 MiB of numbers.
_LOOKED_AT = 1 << 21
# A catalogue whose square has at most so many cells (64 MiB) is looked up in a full matrix: one read a pair in
# place of a binary search, twenty times as fast.
_CELLS = 1 << 24


class CoVisitation(nn.Module):
    """The table w, sparse, with every user's train sequence to take the own share out.

    Everything is a buffer: it is saved with the model that reads it and moves with it.

    Args:
        earlier: item rows a [E], int64.
        later: item rows b [E], int64.
        weight: w(a -> b) [E]; pairs (a, b) unique.
        sequence: item rows of all train events, by user and then time [n].
        offsets: first event of each user row in ``sequence`` [U + 1].
        num_items: item rows, the two reserved ones included.
        window: largest gap counted.
    """

    keys: Tensor
    weight: Tensor
    sequence: Tensor
    offsets: Tensor
    own_keys: Tensor
    counts: Tensor
    _matrix: Tensor | None = None

    def __init__(
        self,
        earlier: Tensor,
        later: Tensor,
        weight: Tensor,
        sequence: Tensor,
        offsets: Tensor,
        *,
        num_items: int,
        window: int,
    ) -> None:
        super().__init__()
        self.num_items, self.window = num_items, window
        keys, order = (earlier.long() * num_items + later.long()).sort()
        sequence, offsets = sequence.long(), offsets.long()
        user = torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff())
        self.register_buffer("keys", keys)
        self.register_buffer("weight", weight.float()[order])
        self.register_buffer("sequence", sequence)
        self.register_buffer("offsets", offsets)
        self.register_buffer("own_keys", (user * num_items + sequence).sort().values)
        self.register_buffer("counts", torch.bincount(sequence, minlength=num_items).float())

    @classmethod
    def of(cls, dataset: Dataset, split: Split, *, window: int = 20) -> CoVisitation:
        """Counts the train events of a split.

        Args:
            dataset: the events.
            split: only its train events are counted.
            window: largest gap, in events of a user, >= 1.
        """
        rows = split.rows(Part.TRAIN)
        items = dataset.events.item[rows].astype(np.int64)
        users = dataset.events.user[rows].astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=dataset.n_users))])
        key, weight = count_pairs(items, users, dataset.n_items, window)
        return cls(
            torch.from_numpy(key // dataset.n_items),
            torch.from_numpy(key % dataset.n_items),
            torch.from_numpy(weight),
            torch.from_numpy(items),
            torch.from_numpy(offsets),
            num_items=dataset.n_items,
            window=window,
        )

    @property
    def sizes(self) -> dict[str, int]:
        """What :meth:`empty` needs to make a table that these buffers fit into; JSON values."""
        return {
            "pairs": len(self.keys),
            "events": len(self.sequence),
            "owned": len(self.own_keys),
            "users": len(self.offsets) - 1,
            "items": self.num_items,
            "window": self.window,
        }

    @classmethod
    def empty(cls, *, pairs: int, events: int, owned: int, users: int, items: int, window: int) -> CoVisitation:
        """A table of the given sizes, to load saved buffers into."""
        none = torch.zeros(0, dtype=torch.int64)
        table = cls(none, none, none, none, torch.zeros(users + 1).long(), num_items=items, window=window)
        table.keys, table.weight = torch.zeros(pairs).long(), torch.zeros(pairs)
        table.sequence, table.own_keys = torch.zeros(events).long(), torch.zeros(owned).long()
        return table

    def renumbered(self, moved: Tensor, num_items: int) -> CoVisitation:
        """The same counts for a longer catalogue; ``moved`` [old rows] says where each item row went."""
        return CoVisitation(
            moved[self.keys // self.num_items],
            moved[self.keys % self.num_items],
            self.weight,
            moved[self.sequence],
            self.offsets,
            num_items=num_items,
            window=self.window,
        )

    def lookup(self, earlier: Tensor, later: Tensor) -> Tensor:
        """w(earlier -> later), own shares included; shapes broadcast."""
        wanted = earlier * self.num_items + later
        if not len(self.keys):
            return torch.zeros(wanted.shape, device=wanted.device)
        if self.num_items**2 <= _CELLS:
            return self._full_matrix()[wanted]
        at = torch.searchsorted(self.keys, wanted.contiguous()).clamp_(max=len(self.keys) - 1)
        return torch.where(self.keys[at] == wanted, self.weight[at], 0.0)

    def _full_matrix(self) -> Tensor:
        """w of all pairs [num_items ** 2], made when first asked for, from the pairs that are there now."""
        if self._matrix is None:
            matrix = self.weight.new_zeros(self.num_items**2)
            matrix[self.keys] = self.weight
            self._matrix = matrix
        return self._matrix

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CoVisitation:
        self._matrix = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self._matrix = None
        super()._load_from_state_dict(*arguments)

    @torch.no_grad()
    def between(self, user: Tensor, history: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Forward w(h -> i) and backward w(i -> h) of each history item and item, without the user's own share.

        Args:
            user: user rows [B].
            history: item rows [B, R], 0-padded.
            items: item rows [B, N].

        Returns:
            Two tensors [B, N, R], >= 0; 0 at padding.
        """
        past, item = history[:, None, :], items[:, :, None]
        forward, backward = self.lookup(past, item), self.lookup(item, past)
        rows, columns = self.owned(user, items).nonzero(as_tuple=True)
        if len(rows):
            ahead, behind = self._own_share(user[rows], history[rows], items[rows, columns])
            # Subtracting what was added in another order leaves rounding noise: clamped and cleaned.
            forward[rows, columns] = _without(forward[rows, columns], ahead)
            backward[rows, columns] = _without(backward[rows, columns], behind)
        return forward, backward

    def owned(self, user: Tensor, items: Tensor) -> Tensor:
        """How many of the user's train events are of the item: [B, N], int64."""
        key = (user[:, None] * self.num_items + items).contiguous()
        found = torch.searchsorted(self.own_keys, key, right=True) - torch.searchsorted(self.own_keys, key)
        return found.masked_fill(items < FIRST_ROW, 0)

    def _own_share(self, user: Tensor, history: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """What the user's own train events add to w(h -> i) and w(i -> h): two [P, R] for P (user, item) pairs."""
        first, stop = self.offsets[user], self.offsets[user + 1]
        ahead, behind = (torch.zeros(history.shape, device=history.device) for _ in range(2))
        pair, place = self._standing(first, stop, item)
        longest = int((stop - first).max())
        gap = torch.arange(1, max(min(self.window, longest - 1), 0) + 1, device=user.device)
        # One pair may stand in several places: added, not assigned. In parts: [places, gaps, R] may be large.
        for rows, here in zip(pair.split(_PLACES), place.split(_PLACES), strict=True):
            for share, other in ((ahead, here[:, None] - gap), (behind, here[:, None] + gap)):
                inside = (other >= first[rows, None]) & (other < stop[rows, None])
                near = self.sequence[other.clamp(0, len(self.sequence) - 1)].masked_fill(~inside, -1)
                met = near[:, :, None] == history[rows][:, None, :]
                # Not a product of matrices: autocast would make it in bfloat16.
                share.index_add_(0, rows, (met / gap[:, None]).sum(1))
        # An item is not visited after itself: such pairs are not counted.
        same = history == item[:, None]
        return ahead.masked_fill(same, 0.0), behind.masked_fill(same, 0.0)

    def _standing(self, first: Tensor, stop: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """Where each item [P] stands among the places first to stop of ``sequence``: pairs and places, one each mostly.

        In parts of about so many places, so that one long sequence makes nobody else's long.
        """
        lengths = stop - first
        part = (lengths.cumsum(0) - lengths) // _LOOKED_AT
        pairs, places = [], []
        for some in torch.arange(len(item), device=item.device).split(torch.bincount(part).tolist()):
            size = lengths[some]
            pair = some.repeat_interleave(size)
            place = torch.arange(len(pair), device=item.device) - (size.cumsum(0) - size).repeat_interleave(size)
            place += first[pair]
            found = (self.sequence[place] == item[pair]).nonzero()[:, 0]
            pairs.append(pair[found])
            places.append(place[found])
        return torch.cat(pairs), torch.cat(places)


def _without(total: Tensor, own: Tensor) -> Tensor:
    """total - own, exactly 0 where nothing but rounding is left."""
    rest = total - own
    return torch.where(rest > 1e-4 * own, rest, 0.0).clamp(min=0.0)


def count_pairs(items: np.ndarray, users: np.ndarray, num_items: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """w over sequences: keys ``earlier * num_items + later`` [E] ascending, int64, and weights [E], float64.

    Gap by gap, so that memory is two tables of E pairs and not all n * window pairs.

    Args:
        items: item rows, by user and then time [n], int64.
        users: their users, ascending [n].
        num_items: item rows.
        window: largest gap.
    """
    if window < 1:
        raise ValueError(f"window={window}: must be at least 1")
    key: np.ndarray = np.zeros(0, dtype=np.int64)
    weight: np.ndarray = np.zeros(0)
    for gap in range(1, window + 1):
        same_user = users[gap:] == users[:-gap] if len(users) > gap else np.zeros(0, dtype=bool)
        if not same_user.any():
            break
        earlier, later = items[:-gap][same_user], items[gap:][same_user]
        differ = earlier != later
        new, times = np.unique(earlier[differ] * num_items + later[differ], return_counts=True)
        merged, inverse = np.unique(np.concatenate([key, new]), return_inverse=True)
        weight = np.bincount(inverse, np.concatenate([weight, times / gap]), minlength=len(merged))
        key = merged
    return key, weight
