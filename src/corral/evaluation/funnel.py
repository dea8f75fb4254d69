"""The two stages run over the targets, batch by batch, exactly as they would be served.

Shape letters: B queries, T recalled items, N items for the ranker.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from corral.data.batches import Query
from corral.data.candidates import Candidates
from corral.data.targets import TargetBatch, Targets
from corral.evaluation.metrics import ranked
from corral.evaluation.turns import Turns, present_turns
from corral.retrieval.channels import RecallChannel, merge
from corral.retrieval.evaluation_mode import evaluation_mode

RankerCall = Callable[[Query, Tensor], Tensor]


@dataclass(frozen=True)
class FunnelBatch:
    """What both stages said of one batch of queries.

    Attributes:
        query: B queries, on the device.
        target: item rows [n] of all queries.
        owner: the query of each target [n].
        batch: where they come from.
        recalled: stage 1's list [B, T]: its candidates, and behind them what it would add to a longer list.
        candidates: what the ranker was given [B, N], in stage 1's order.
        logits: the ranker's, of the candidates [B, N]; None without a ranker.
    """

    query: Query
    target: Tensor
    owner: Tensor
    batch: TargetBatch
    recalled: Candidates
    candidates: Candidates
    logits: Tensor | None


def checked_list(candidates: Candidates, name: str) -> Candidates:
    """A channel's list in total order (equal scores by item row), refused if it is no list.

    Raises:
        ValueError: scores rise or are not finite, padding before an item, an unknown item (row 1).
    """
    items, scores, mask = candidates.items, candidates.scores, candidates.mask
    if bool((items == 1).any()):
        raise ValueError(f"recall channel {name!r}: recommends row 1, which stands for unknown items")
    if not bool(torch.isfinite(scores[mask]).all()):
        raise ValueError(f"recall channel {name!r}: scores of recalled items must be finite")
    if bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        raise ValueError(f"recall channel {name!r}: padding stands before an item; it must come last")
    both = mask[:, 1:]
    if bool(((scores[:, 1:] > scores[:, :-1]) & both).any()):
        raise ValueError(f"recall channel {name!r}: scores must fall along the list (best first)")
    if bool(((scores[:, 1:] == scores[:, :-1]) & both).any()):
        return ranked(items, scores)
    return candidates


def refuse_duplicates(items: Tensor, name: str) -> None:
    """Raise ValueError where a list [B, N] holds an item twice (it would push others out of the top k)."""
    ordered = items.sort(dim=1).values
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != 0)
    if bool(twice.any()):
        row = int(ordered[:, 1:][twice][0])
        raise ValueError(f"recall channel {name!r}: item row {row} appears twice in one list")


@dataclass
class Funnel:
    """Stage 1, and stage 2 where there is one.

    Attributes:
        channel: stage 1.
        ranker: stage 2, ``ranker(query, items [B, N]) -> logits [B, N]``, or None.
        num_candidates: N, how many of stage 1's items the ranker sees.
        seconds: time spent in each stage so far, by name.
    """

    channel: RecallChannel
    ranker: RankerCall | None
    num_candidates: int
    seconds: dict[str, float] = field(default_factory=lambda: {"recall": 0.0, "rank": 0.0})

    def __post_init__(self) -> None:
        if self.num_candidates < 1:
            raise ValueError(f"num_candidates: {self.num_candidates}, must be at least 1")

    def run(self, targets: Targets, depth: int, batch_size: int, device: torch.device | str) -> Iterator[FunnelBatch]:
        """Both stages over all targets, without gradients.

        The candidates are the first N of a list of ``depth`` where that is what the channel gives when
        asked for N (checked on queries of all parts of the targets); a channel that answers differently (an approximate
        index, merged channels) is asked a second time, so that what is measured is what is served, in stage 1 too:
        what the longer list has beyond that stands behind.

        Args:
            targets: the queries.
            depth: T, how long a list stage 1 is judged by; at least N is asked for.
            batch_size: queries at a time.
            device: where the queries go; both stages must live there.
        """
        depth = max(depth, self.num_candidates)
        batches = targets.batches(batch_size)
        first = next(batches, None)
        if first is None:
            return
        scored, more = self._judge(first, depth, depth > self.num_candidates, device), depth > self.num_candidates
        # Where there are turns, everybody judges the first batch and finds out how all are asked.
        again = more and not _same_list(scored.candidates, scored.recalled.top(self.num_candidates))
        if more and len(targets) > batch_size:
            again = again or self._answers_differ(targets, depth, batch_size, device)
        yield _as_served(scored) if again else scored

        def judged(batch: TargetBatch) -> FunnelBatch:
            scored = self._judge(batch, depth, again, device)
            return _as_served(scored) if again else scored

        turns = present_turns()
        while turns is not None and (group := list(itertools.islice(batches, turns.size))):
            mine = judged(group[turns.rank]) if turns.rank < len(group) else None
            yield from _told(group, mine, scored, turns)
        for batch in batches:
            yield judged(batch)

    def _answers_differ(self, targets: Targets, depth: int, size: int, device: torch.device | str) -> bool:
        """Whether a list of N is not the begin of a list of ``depth``, for queries spread over all targets.

        The first ones alone would not say it: new users' popular items may be the same either way.
        """
        spread = np.linspace(0, len(targets) - 1, min(size, len(targets))).astype(np.int64)
        batch = targets.batch(np.unique(spread))
        with torch.no_grad(), evaluation_mode(self.channel, self.ranker):
            query, exclude = batch.query.to(device), batch.exclude.to(device)
            short = self._recall(query, self.num_candidates, exclude)
            return not _same_list(short, self._recall(query, depth, exclude).top(self.num_candidates))

    def _judge(self, batch: TargetBatch, depth: int, again: bool, device: torch.device | str) -> FunnelBatch:
        """Both stages over a batch; with ``again`` the candidates are asked for by themselves."""
        with torch.no_grad(), evaluation_mode(self.channel, self.ranker):
            query, exclude = batch.query.to(device), batch.exclude.to(device)
            recalled = self._recall(query, depth, exclude)
            candidates = recalled.top(self.num_candidates)
            if again:
                candidates = self._recall(query, self.num_candidates, exclude)
            refuse_duplicates(candidates.items, self.channel.name)
            logits = None if self.ranker is None else self.rank(query, candidates.items)
        return FunnelBatch(query, batch.item.to(device), batch.owner.to(device), batch, recalled, candidates, logits)

    def rank(self, query: Query, items: Tensor) -> Tensor:
        """The ranker's logits [B, N] of item rows [B, N].

        Raises:
            ValueError: the ranker answers in another shape.
        """
        assert self.ranker is not None
        start = time.perf_counter()
        with torch.no_grad(), evaluation_mode(self.ranker):
            logits = self.ranker(query, items)
        if logits.shape != items.shape:
            raise ValueError(f"ranker: logits {tuple(logits.shape)} for items {tuple(items.shape)}")
        self.seconds["rank"] += time.perf_counter() - start
        return logits

    def _recall(self, query: Query, k: int, exclude: Tensor) -> Candidates:
        start = time.perf_counter()
        found = self.channel.recall(query, k, exclude if exclude.shape[1] else None)
        found = checked_list(found.top(k), self.channel.name)
        self.seconds["recall"] += time.perf_counter() - start
        return found


def _told(group: Sequence[TargetBatch], mine: FunnelBatch | None, like: FunnelBatch, turns: Turns) -> list[FunnelBatch]:
    """Every batch of a group, each as the process whose turn it was found it.

    Args:
        group: a batch for each process, in the order of turns; fewer at the end.
        mine: this process's; None: it had none.
        like: any batch, for the types of its numbers.
        turns: the processes.
    """
    given = [part[:0] if mine is None else part for part in _said(mine or like)]
    heard = [turns.gather(part.flatten()) for part in given]
    found = []
    for turn, batch in enumerate(group):
        said = [parts[turn].view(len(batch.query), -1) for parts in heard]
        device = said[0].device
        found.append(
            FunnelBatch(
                batch.query.to(device),
                batch.item.to(device),
                batch.owner.to(device),
                batch,
                Candidates(said[0], said[1]),
                Candidates(said[2], said[3]),
                said[4] if like.logits is not None else None,
            )
        )
    return found


def _said(scored: FunnelBatch) -> list[Tensor]:
    """What both stages said of a batch."""
    recalled, candidates = scored.recalled, scored.candidates
    said = [recalled.items, recalled.scores, candidates.items, candidates.scores]
    return said if scored.logits is None else [*said, scored.logits]


def _as_served(scored: FunnelBatch) -> FunnelBatch:
    """Stage 1's list begins with what the ranker was given; what the longer one has besides stands behind."""
    lists = scored.candidates, scored.recalled
    longest = max(one.items.shape[1] for one in lists)
    merged = merge(lists, longest, ("candidates", "longer"), (lists[0].items.shape[1], 0))
    first, second = merged.channel_scores.unbind(-1)
    found = torch.where(first.isnan(), second, first).nan_to_num(nan=-torch.inf)
    return replace(scored, recalled=Candidates(merged.candidates.items, found))


def _same_list(first: Candidates, second: Candidates) -> bool:
    """Whether two answers are one list, up to items whose scores differ by rounding alone."""
    if torch.equal(first.items, second.items):
        return True
    if first.items.shape != second.items.shape or not torch.equal(first.mask, second.mask):
        return False
    one, two = first.scores[first.mask], second.scores[second.mask]
    # Inner products round in proportion to the vectors' sizes, of which the largest score is a sign.
    return torch.allclose(one, two, rtol=0.0, atol=1e-4 * float(one.abs().max().clamp(min=1e-12)))
