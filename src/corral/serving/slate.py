"""choose_slate: which of the ranked candidates are shown: unlike each other, few of a group, some of them new.

Shape letters: B lists, N candidates, T list length, D vector size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from corral.data.candidates import Candidates


def choose_slate(
    candidates: Candidates,
    k: int,
    *,
    diversity: float = 0.0,
    vectors: Tensor | None = None,
    groups: Tensor | None = None,
    most_of_group: int = 0,
    new: Tensor | None = None,
    min_new: int = 0,
) -> Tensor:
    """Chooses k candidates, one after the other: each time the one of the greatest marginal relevance (MMR).

    value = (1 - diversity) x relevance - diversity x the greatest cosine with an item chosen before. Relevance is
    the score, scaled to 0..1 over the list's candidates, so that it means the same beside a cosine whatever the
    scale of the scores. The first item is always the best; at 0 the order is that of the scores.

    New items get their places first (the best by the same value), and are then shown where their value puts
    them; so a list has min_new of them, or all that fit, and as many items as the groups leave, at most k.

    Args:
        candidates: [B, N], in the order of their scores; the last column is padding.
        k: T, >= 1.
        diversity: in [0, 1].
        vectors: the candidates' vectors of unit length [B, N, D]; needed where ``diversity`` > 0.
        groups: each candidate's group [B, N], int64; 0 = none. None: no bound on groups.
        most_of_group: how many items of one group a list may hold, >= 1.
        new: which candidates are new [B, N], bool; needed where ``min_new`` > 0.
        min_new: how many of them a list must hold, while there are so many.

    Returns:
        columns of the candidates [B, T], int64, in the order shown; the last one where no more fit.
    """
    assert not candidates.items[:, -1].any(), "the last column must be padding"
    assert diversity == 0 or vectors is not None
    relevance, there = _relevance(candidates), candidates.mask
    greedy = _Greedy(relevance, diversity, vectors, groups, most_of_group)
    reserved, held = torch.zeros_like(there), torch.zeros_like(candidates.items)
    if min_new:
        assert new is not None
        _, reserved, held = greedy.choose(min(min_new, k), there & new, reserved, held)
    return greedy.choose(k, there, reserved, held)[0]


def _relevance(candidates: Candidates) -> Tensor:
    """Scores scaled to 0..1 over each list's items [B, N], float64; -1 where a score is -inf."""
    scores = candidates.scores.double()
    finite = scores.isfinite()
    low = scores.masked_fill(~finite, torch.inf).amin(dim=1, keepdim=True)
    high = scores.masked_fill(~finite, -torch.inf).amax(dim=1, keepdim=True)
    return torch.where(finite & (high > low), (scores - low) / (high - low), 0.0).masked_fill(~finite, -1.0)


@dataclass(frozen=True)
class _Greedy:
    """One item a step, for all lists at once."""

    relevance: Tensor
    diversity: float
    vectors: Tensor | None
    groups: Tensor | None
    most_of_group: int

    def choose(self, k: int, allowed: Tensor, reserved: Tensor, held: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Columns [B, k]; which candidates they are [B, N]; and of how many chosen each shares the group [B, N].

        Args:
            k: how many steps.
            allowed: which candidates may be chosen [B, N], bool.
            reserved: which have a place already [B, N], bool.
            held: reserved ones in each candidate's group [B, N].
        """
        rows = torch.arange(len(allowed), device=allowed.device)
        chosen, closest = torch.zeros_like(allowed), torch.zeros_like(self.relevance)
        columns = []
        for step in range(k):
            waiting = (reserved & ~chosen).sum(dim=1, keepdim=True)
            free = (k - step > waiting).expand_as(allowed)
            if self.groups is not None:
                free = free & (held < self.most_of_group)
            fits = allowed & ~chosen & (reserved | free)
            value = (1.0 - self.diversity) * self.relevance - self.diversity * closest
            # Of equal values argmax takes the first, which is the one that stood higher.
            best = value.masked_fill(~fits, -torch.inf).argmax(dim=1)
            best = torch.where(fits.any(dim=1), best, allowed.shape[1] - 1)
            columns.append(best)
            chosen[rows, best] = fits[rows, best]
            if self.groups is not None:
                group = self.groups[rows, best]
                added = fits[rows, best] & (group > 0) & ~reserved[rows, best]
                held = held + ((self.groups == group[:, None]) & added[:, None])
            if self.diversity:
                assert self.vectors is not None
                cosine = torch.einsum("bnd,bd->bn", self.vectors, self.vectors[rows, best]).double()
                closest = torch.maximum(closest, cosine) if step else cosine
        return torch.stack(columns, dim=1), chosen, held
