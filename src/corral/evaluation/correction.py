"""fit_correction: the weights of a ``HeldOutCorrection``, by conditional logistic regression on validation queries.

Shape letters: Q queries, N candidates, E inputs, n targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from corral.data.batches import Query
from corral.data.targets import Targets
from corral.evaluation.funnel import Funnel, RankerCall
from corral.evaluation.metrics import list_metrics, ranks_by_score, relevant_counts
from corral.retrieval.channels import RecallChannel

METRIC = "ndcg@10"
# (query, items [B, N], retriever scores [B, N]) -> what the correction may weigh [B, N, E]; None: nothing.
Inputs = Callable[[Query, Tensor, Tensor], Tensor | None]


@dataclass(frozen=True)
class Correction:
    """What fitting found.

    Attributes:
        scale: of the logits.
        weight: of the inputs [E].
        before: nDCG@10 of the ranker as it is.
        after: the same, corrected, each half of the queries by weights that were fitted on the other half.
    """

    scale: Tensor
    weight: Tensor
    before: float
    after: float

    @property
    def helps(self) -> bool:
        """Whether queries that it was not fitted on gain."""
        return self.after > self.before


@dataclass(frozen=True)
class _Lists:
    """Candidates of Q queries, their logits and inputs (standardised), and where the targets are."""

    items: Tensor
    logits: Tensor
    inputs: Tensor
    target: Tensor
    owner: Tensor

    def of(self, chosen: Tensor) -> _Lists:
        """Those of the queries with True [Q]."""
        number = chosen.cumsum(0) - 1
        kept = chosen[self.owner]
        items, logits, inputs = (part[chosen] for part in (self.items, self.logits, self.inputs))
        return _Lists(items, logits, inputs, self.target[kept], number[self.owner[kept]])

    def corrected(self, scale: Tensor, weight: Tensor) -> Tensor:
        """[Q, N]."""
        return scale * self.logits + self.inputs @ weight

    def values(self, logits: Tensor) -> Tensor:
        """nDCG@10 of each query [Q] by these logits [Q, N]."""
        rank = ranks_by_score(self.items, logits, self.target, self.owner)
        return list_metrics(rank, self.owner, relevant_counts(self.owner, len(self.items)), [10])[METRIC]


def fit_correction(
    targets: Targets,
    channel: RecallChannel,
    ranker: RankerCall,
    inputs: Inputs,
    *,
    num_candidates: int = 100,
    penalty: float = 1e-2,
    batch_size: int = 512,
    device: torch.device | str = "cpu",
) -> Correction:
    """Minimises the mean over targets of -log softmax over their query's candidates, plus a ridge.

    The ridge is penalty * (|weight * sd|^2 + (scale - 1)^2), sd the inputs' standard deviations: towards no correction.
    Other targets of the same query are left out of a target's softmax. Convex, E + 1 numbers: a few thousand queries
    are plenty, and two halves of them say whether it helps.

    Args:
        targets: validation queries; never the ones the correction is then judged on.
        channel: stage 1.
        ranker: stage 2, uncorrected.
        inputs: what may be weighed.
        num_candidates: N, as served.
        penalty: of the ridge, > 0.
        batch_size: queries at a time.
        device: where both stages live.
    """
    lists, deviation = _gathered(targets, channel, ranker, inputs, num_candidates, batch_size, device)
    before, after = lists.values(lists.logits), torch.zeros(len(lists.items), dtype=torch.float64)
    half = torch.arange(len(lists.items)) % 2 == 0
    for some in (half, ~half):
        if some.any() and (~some).any():
            rest = lists.of(~some)
            after[~some] = rest.values(rest.corrected(*_fitted(lists.of(some), penalty)))
    scale, weight = _fitted(lists, penalty)
    return Correction(scale, weight / deviation, float(before.mean()), float(after.mean()))


def _gathered(
    targets: Targets,
    channel: RecallChannel,
    ranker: RankerCall,
    inputs: Inputs,
    num_candidates: int,
    batch_size: int,
    device: torch.device | str,
) -> tuple[_Lists, Tensor]:
    """The lists of all queries on the CPU, in float64, and the inputs' deviations [E]."""
    parts, start = [], 0
    for scored in Funnel(channel, ranker, num_candidates).run(targets, num_candidates, batch_size, device):
        assert scored.logits is not None
        candidates = scored.candidates
        known = inputs(scored.query, candidates.items, candidates.scores)
        if known is None:
            raise ValueError("correction: the ranker reads neither evidence nor the retriever's score")
        parts.append((candidates.items, scored.logits, known, scored.target, scored.owner + start))
        start += len(candidates.items)
    items, logits, known, target, owner = (torch.cat([part[n] for part in parts]).cpu() for n in range(5))
    known = known.double().masked_fill((items == 0)[..., None], 0.0)
    there = known[items != 0]
    deviation = there.std(0).clamp(min=1e-6) if len(there) > 1 else torch.ones(known.shape[-1], dtype=torch.float64)
    return _Lists(items, logits.double(), known / deviation, target, owner), deviation


def _fitted(lists: _Lists, penalty: float) -> tuple[Tensor, Tensor]:
    """Scale and weights, of standardised inputs."""
    clicked = (lists.items[lists.owner] == lists.target[:, None]) & (lists.target > 1)[:, None]
    found = clicked.any(1)
    owner, clicked = lists.owner[found], clicked[found]
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    weight = torch.zeros(lists.inputs.shape[-1], dtype=torch.float64, requires_grad=True)
    if len(owner):
        hits = torch.zeros(lists.items.shape, dtype=torch.bool).index_put_(
            (owner, clicked.int().argmax(1)), torch.tensor(True)
        )
        # What a target competes with: itself, and what nobody wanted.
        against = ((lists.items != 0) & ~hits)[owner] | clicked
        optimizer = torch.optim.LBFGS([scale, weight], max_iter=100, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            values = lists.corrected(scale, weight)[owner]
            losses = values.masked_fill(~against, -torch.inf).logsumexp(1) - values[clicked]
            loss = losses.mean() + penalty * (weight.square().sum() + (scale - 1).square())
            loss.backward()
            return loss

        optimizer.step(closure)
    return scale.detach(), weight.detach()
