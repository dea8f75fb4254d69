"""fit_correction: the weights of a ``HeldOutCorrection``, by conditional logistic regression on validation queries.

Shape letters: Q queries, N candidates, E inputs, n targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from corral.data.batches import Query
from corral.data.targets import Targets
from corral.evaluation.funnel import Funnel, RankerCall
from corral.evaluation.metrics import list_metrics, ranks_by_score, relevant_counts
from corral.evaluation.significance import user_clusters
from corral.retrieval.channels import RecallChannel

METRIC = "ndcg@10"
# (query, items [B, N]) -> what the correction may weigh [B, N, E]; None: nothing. It is asked as the ranker is in
# service: a channel's own scores may be others, as the counts of popular items for who has no history.
Inputs = Callable[[Query, Tensor], Tensor | None]


@dataclass(frozen=True)
class Correction:
    """What fitting found.

    Attributes:
        scale: of the logits.
        weight: of the inputs [E].
        before: nDCG@10 of the ranker as it is; AUC where it learned from labels.
        after: the same, corrected, each half of the users by weights that were fitted on the other half.
        likelier: by how much the weights raise the mean log-likelihood of a target (a label) in that half, in nats,
            above what a scale alone reaches there.
        level: a constant besides; 0 where it would mean nothing.
    """

    scale: Tensor
    weight: Tensor
    before: float
    after: float
    likelier: float
    level: float = 0.0

    @property
    def helps(self) -> bool:
        """Whether targets, or labels, that it was not fitted on become likelier by the weights.

        Not whether their nDCG@10 grows: that hangs on the few targets about rank 10, and ``before`` flatters the
        ranker, whose best epoch was chosen by it on these very queries.
        """
        return self.likelier > 0


@dataclass(frozen=True)
class _Lists:
    """Candidates of Q queries, their logits and inputs (standardised), where the targets are, and who asked [Q]."""

    items: Tensor
    logits: Tensor
    inputs: Tensor
    target: Tensor
    owner: Tensor
    user: Tensor

    def of(self, chosen: Tensor) -> _Lists:
        """Those of the queries with True [Q]."""
        number = chosen.cumsum(0) - 1
        kept = chosen[self.owner]
        items, logits, inputs, user = (part[chosen] for part in (self.items, self.logits, self.inputs, self.user))
        return _Lists(items, logits, inputs, self.target[kept], number[self.owner[kept]], user)

    def half(self) -> Tensor:
        """True for about half of the queries [Q]: all of a user's or none, so that none speaks of himself."""
        _, number = np.unique(user_clusters(self.user.numpy()), return_inverse=True)
        return torch.from_numpy(number % 2 == 0)

    def corrected(self, scale: Tensor, weight: Tensor) -> Tensor:
        """[Q, N]."""
        return scale * self.logits + self.inputs @ weight

    @cached_property
    def found(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of the F targets among their query's candidates: query [F], place [F, N], what each competes with [F, N]."""
        clicked = (self.items[self.owner] == self.target[:, None]) & (self.target > 1)[:, None]
        some = clicked.any(1)
        owner, clicked = self.owner[some], clicked[some]
        hits = torch.zeros(self.items.shape, dtype=torch.bool)
        hits[owner, clicked.int().argmax(1)] = True
        # A target competes with itself, and with what nobody wanted.
        return owner, clicked, ((self.items != 0) & ~hits)[owner] | clicked

    def losses(self, scale: Tensor, weight: Tensor) -> Tensor:
        """-log softmax of each target among its query's candidates [F]."""
        owner, clicked, against = self.found
        values = self.corrected(scale, weight)[owner]
        return values.masked_fill(~against, -torch.inf).logsumexp(1) - values[clicked]

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
    are plenty, and two halves of their users say whether it helps.

    Args:
        targets: validation queries; never the ones the correction is then judged on.
        channel: stage 1.
        ranker: stage 2, uncorrected.
        inputs: what may be weighed, as the ranker reads it in service.
        num_candidates: N, as served.
        penalty: of the ridge, > 0.
        batch_size: queries at a time.
        device: where both stages live.
    """
    lists, deviation = _gathered(targets, channel, ranker, inputs, num_candidates, batch_size, device)
    before, after = lists.values(lists.logits), torch.zeros(len(lists.items), dtype=torch.float64)
    likelier = [torch.zeros(0, dtype=torch.float64)]
    half = lists.half()
    for some in (half, ~half):
        if some.any() and (~some).any():
            fitted, rest = lists.of(some), lists.of(~some)
            full, alone = _fitted(fitted, penalty), _fitted(fitted, penalty, weigh=False)
            after[~some] = rest.values(rest.corrected(*full))
            likelier.append(rest.losses(*alone) - rest.losses(*full))
    scale, weight = _fitted(lists, penalty)
    gain = torch.cat(likelier)
    mean = float(gain.mean()) if len(gain) else 0.0  # no half had a target: nothing says that it helps
    return Correction(scale, weight / deviation, float(before.mean()), float(after.mean()), mean)


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
        known = inputs(scored.query, candidates.items)
        if known is None:
            raise ValueError("correction: the ranker reads neither evidence nor the retriever's score")
        parts.append((candidates.items, scored.logits, known, scored.target, scored.owner + start, scored.query.user))
        start += len(candidates.items)
    items, logits, known, target, owner, user = (torch.cat([part[n] for part in parts]).cpu() for n in range(6))
    known = known.double().masked_fill((items == 0)[..., None], 0.0)
    there = known[items != 0]
    deviation = there.std(0).clamp(min=1e-6) if len(there) > 1 else torch.ones(known.shape[-1], dtype=torch.float64)
    return _Lists(items, logits.double(), known / deviation, target, owner, user), deviation


def _fitted(lists: _Lists, penalty: float, *, weigh: bool = True) -> tuple[Tensor, Tensor]:
    """Scale and weights, of standardised inputs; without ``weigh`` the weights stay 0."""
    size = lists.inputs.shape[-1]
    if not len(lists.found[0]):
        return torch.ones((), dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    scale, weight, _ = least_loss(
        lambda scale, weight, _: lists.losses(scale, weight).mean(), size, penalty, weigh=weigh
    )
    return scale, weight


def least_loss(
    loss: Callable[[Tensor, Tensor, Tensor], Tensor], size: int, penalty: float, *, weigh: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, weights [E] and level, float64, where a convex loss and the ridge towards no correction are least.

    Args:
        loss: of scale, weights (of standardised inputs) and level, a constant that is added; it may ignore that.
        size: E.
        penalty: of the ridge; the level is free.
        weigh: False: the weights stay 0.
    """
    # Imported here: nothing else of judging needs it. torch's own L-BFGS would bring in torch's compiler.
    from scipy.optimize import minimize

    def parts(learned: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return learned[0], learned[2:] if weigh else torch.zeros(size, dtype=torch.float64), learned[1]

    def value_and_gradient(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        learned = torch.tensor(numbers, requires_grad=True)
        scale, weight, level = parts(learned)
        value = loss(scale, weight, level) + penalty * (weight.square().sum() + (scale - 1).square())
        (gradient,) = torch.autograd.grad(value, learned)
        return value.item(), gradient.numpy()

    start = np.zeros(2 + size * weigh)
    start[0] = 1.0
    options = {"maxiter": 500, "ftol": 1e-14, "gtol": 1e-8}
    found = minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
    return parts(torch.from_numpy(found.x))
