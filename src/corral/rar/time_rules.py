"""As of when: which snapshot of keys, neighbours and exposures an example may see. One named rule a run.

- ``blocks``: train time is cut into T blocks of equal numbers of events; what an event of block b sees comes from
  the blocks before b; block 0 sees nothing. What comes after train sees all of train.
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
    STATIC = "static"


@dataclass(frozen=True)
class TimeRule:
    """Snapshots of the train log, numbered 0 .. S - 1, and which one a time may see.

    Attributes:
        rule: its name.
        edges: first time of each block but the first, then the first time after train [T], int64; snapshot s holds
            the train events before ``edges[s - 1]``, snapshot 0 none. Empty for ``static``: one snapshot of all.
    """

    rule: Rule
    edges: Tensor

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

    @property
    def snapshots(self) -> int:
        """S."""
        return 1 if self.rule is Rule.STATIC else len(self.edges) + 1

    def snapshot(self, time: Tensor) -> Tensor:
        """The snapshot that a request at each time may see [...], int64."""
        if self.rule is Rule.STATIC:
            return torch.zeros_like(time)
        return torch.searchsorted(self.edges.to(time.device), time.contiguous(), right=True)

    def until(self, snapshot: int) -> int | None:
        """The snapshot holds train events with an earlier time than this; None: all of them."""
        if self.rule is Rule.STATIC:
            return None
        return int(self.edges[snapshot - 1]) if snapshot else int(np.iinfo(np.int64).min)

    def exposure_time(self, time: Tensor) -> Tensor:
        """Up to when a request at each time may look pairs up [...]: the edge of its block."""
        if self.rule is Rule.STATIC:
            return torch.full_like(time, torch.iinfo(torch.int64).max)
        edges = torch.cat([torch.full((1,), torch.iinfo(torch.int64).min), self.edges]).to(time.device)
        return edges[self.snapshot(time)]

    def describe(self) -> str:
        """What is printed beside results."""
        if self.rule is Rule.STATIC:
            return "static: keys, neighbours and exposures from all train events, for train examples too"
        return f"blocks: {len(self.edges)} blocks of train time; keys, neighbours and exposures from blocks before"
