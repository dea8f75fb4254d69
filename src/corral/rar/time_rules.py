"""As of when: which snapshot of keys, neighbours and exposures an example may see. One named rule a run.

- ``blocks``: train time is cut into T blocks of equal numbers of events; what an event of block b sees comes from
  the blocks before b; block 0 sees nothing. What comes after train sees all of train.
- ``folds``: users are dealt into folds; what a train event of a fold's user sees comes from the other folds' users (of
  any time); validation, test and requests see all of train. For keys that are encoded from histories alone.
- ``static``: the paper's: everything from all of train, for train events too.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor


class Rule(StrEnum):
    """Names of the rules."""

    BLOCKS = "blocks"
    FOLDS = "folds"
    STATIC = "static"


@dataclass(frozen=True)
class TimeRule:
    """Snapshots of the train log, numbered 0 .. S - 1, and which one a time may see.

    Attributes:
        rule: its name.
        edges: blocks: first time of each block but the first, then the first time after train [T], int64; snapshot s
            holds the train events before ``edges[s - 1]``, snapshot 0 none. Else empty; static: one snapshot of all.
        fold: folds: of each user row [U], int64; snapshot f holds the others' events, the last one everybody's.
    """

    rule: Rule
    edges: Tensor
    fold: Tensor | None = None

    @classmethod
    def static(cls) -> TimeRule:
        """One snapshot with all of train."""
        return cls(Rule.STATIC, torch.zeros(0, dtype=torch.int64))

    @classmethod
    def blocks(cls, train_times: np.ndarray, count: int = 8) -> TimeRule:
        """``count`` blocks of about equal numbers of train events; events of one time are never cut apart.

        Args:
            train_times: of the train events [n].
            count: T.

        Raises:
            ValueError: too few distinct times for so many blocks, or count < 1.
        """
        if count < 1:
            raise ValueError(f"blocks={count}: must be at least 1")
        if not len(train_times):
            raise ValueError("blocks: there are no train events")
        times = np.sort(np.asarray(train_times).astype(np.int64))
        marks = times[(np.arange(1, count) * len(times)) // count]
        edges = np.append(marks, times[-1] + 1)
        if len(np.unique(edges)) != count or (count > 1 and edges[0] <= times[0]):
            raise ValueError(
                f"blocks={count}: the train events have {len(np.unique(times))} distinct times, too few for so many "
                "blocks of equal size; use fewer, or rule static"
            )
        return cls(Rule.BLOCKS, torch.from_numpy(edges))

    @classmethod
    def folds(cls, num_users: int, count: int = 5, seed: int = 0) -> TimeRule:
        """``count`` folds of users, by lot.

        Args:
            num_users: user rows.
            count: how many folds, at least 2.
            seed: of the lots.
        """
        if count < 2:
            raise ValueError(f"folds={count}: need at least 2, so that there are others to learn from")
        lots = torch.randperm(num_users, generator=torch.Generator().manual_seed(seed)) % count
        return cls(Rule.FOLDS, torch.zeros(0, dtype=torch.int64), lots)

    @property
    def snapshots(self) -> int:
        """S."""
        if self.fold is not None:
            return int(self.fold.max()) + 2
        return len(self.edges) + 1

    def snapshot(self, time: Tensor, user: Tensor, *, learning: bool = False) -> Tensor:
        """The snapshot that a request of each user at each time may see, of the same shape, int64.

        Args:
            time, user: of the requests.
            learning: folds: they are train events, which are kept from their own users' snapshot.
        """
        if self.fold is not None:
            if not learning:
                return torch.full_like(time, self.snapshots - 1)
            return self.fold.to(user.device)[user]
        if self.rule is Rule.STATIC:
            return torch.zeros_like(time)
        edges = self.edges.to(time.device)
        if torch.compiler.is_compiling():  # exporters know no binary search
            return (time[..., None] >= edges).sum(-1)
        return torch.searchsorted(edges, time.contiguous(), right=True)

    def holds(self, snapshot: int, user: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Which train events a snapshot holds [n], bool.

        Args:
            snapshot: its number.
            user, time: of the train events [n].
        """
        if self.fold is not None:
            return self.fold.numpy()[user] != snapshot
        if self.rule is Rule.STATIC:
            return np.ones(len(user), dtype=bool)
        return np.asarray(time) < int(self.edges[snapshot - 1]) if snapshot else np.zeros(len(user), dtype=bool)

    def describes(self, snapshot: int, user: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Which train events say what a snapshot's users are like [n], bool: those that it holds.

        folds: everybody's. Who asks is encoded by his own history too, with the vectors of items that never saw it;
        he is nobody's neighbour there.

        Args:
            snapshot: its number.
            user, time: of the train events [n].
        """
        return self.holds(snapshot, user, time) if self.fold is None else np.ones(len(user), dtype=bool)

    def known(
        self,
        user: np.ndarray,
        item: np.ndarray,
        time: np.ndarray,
        of_user: np.ndarray,
        of_item: np.ndarray,
        at: np.ndarray,
        *,
        learning: bool = False,
        all_users: bool = False,
    ) -> np.ndarray:
        """Which rows [m] have a user and an item that their snapshot describes, bool: others have no neighbours.

        Args:
            user, item, time: of the train events [n].
            of_user, of_item, at: of the rows [m]: user, item and time.
            learning: see ``snapshot``.
            all_users: of the items alone.
        """
        snapshots = self.snapshot(torch.from_numpy(at), torch.from_numpy(of_user), learning=learning).numpy()
        found = np.zeros(len(at), dtype=bool)
        for snapshot in np.unique(snapshots).tolist():
            here = snapshots == snapshot
            found[here] = np.isin(of_item[here], item[self.holds(snapshot, user, time)])
            if not all_users:
                found[here] &= np.isin(of_user[here], user[self.describes(snapshot, user, time)])
        return found

    def exposure_time(self, time: Tensor) -> Tensor:
        """Up to when a request at each time may look pairs up, of the same shape: blocks: the edge of its own."""
        if self.rule is not Rule.BLOCKS:
            return torch.full_like(time, torch.iinfo(torch.int64).max)
        edges = torch.cat([torch.full((1,), torch.iinfo(torch.int64).min), self.edges]).to(time.device)
        return edges[torch.searchsorted(edges[1:], time.contiguous(), right=True)]

    def describe(self) -> str:
        """What is printed beside results."""
        if self.rule is Rule.BLOCKS:
            return f"blocks: {len(self.edges)} blocks of train time; keys, neighbours and exposures from blocks before"
        if self.rule is Rule.FOLDS:
            return (
                f"folds: {self.snapshots - 1} folds of users; neighbours of train events from other folds, chosen by "
                "all that the user met, the row itself among it"
            )
        return "static: keys, neighbours and exposures from all train events, for train examples too"
