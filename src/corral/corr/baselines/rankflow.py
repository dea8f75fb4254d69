"""RankFlow: epochs of learning from data and of learning from the next stage (Qin et al., SIGIR 2022).

Self-learning fits each stage to the items it will see in service: the retriever on the whole catalogue, the
ranker on the retriever's best. Tutor-learning then moves the retriever, on its own best items, towards the
ranker.

Shape letters: P examples, N draws, M items in the catalogue, D vector size, T list length.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from corral.corr.stages import Encoded, Stages
from corral.corr.stages_objective import StagesObjective
from corral.data.batches import Batch, SequenceBatch
from corral.data.whole_batch import gathered, total
from corral.sampling.sampler import Sampler
from corral.training.losses import full_precision, sampled_softmax


def tutor_loss(scores: Tensor, logits: Tensor, *, a: float, best: int) -> Tensor:
    """(1 - a) MSE(s, r) + a (-log sigmoid(mean s of the ranker's best - mean s of the rest)); natural log.

    Args:
        scores: retriever scores s of its own best items [P, T]; gradient.
        logits: ranker logits r of the same items [P, T]; no gradient.
        a: weight of the order against the values, in [0, 1].
        best: how many items count as the ranker's best, 1..T - 1.

    Returns:
        Scalar, mean over P (the squares: over P and T); 0 for P = 0.
    """
    scores, tutor = full_precision(scores), full_precision(logits.detach())
    count = max(total(len(scores)), 1)
    squares = (scores - tutor).square().mean(1).sum() / count
    top = torch.zeros_like(tutor).scatter_(1, tutor.topk(best, dim=1).indices, 1.0)
    gap = (scores * top).sum(1) / best - (scores * (1 - top)).sum(1) / (scores.shape[1] - best)
    return (1 - a) * squares - a * functional.logsigmoid(gap).sum() / count


def top_items(queries: Tensor, item_vectors: Tensor, catalogue: Tensor, k: int, *, chunk: int = 256) -> Tensor:
    """The k items [P, k] of the catalogue (rows [M], vectors [M, D]) with the largest scores, best first.

    Exact, also under autocast, in chunks of ``chunk`` queries [P, D]: time P x M x D, memory chunk x M.
    """
    with torch.autocast(queries.device.type, enabled=False):
        found = [
            catalogue[(queries[start : start + chunk] @ item_vectors.T).topk(k, dim=1).indices]
            for start in range(0, len(queries), chunk)
        ]
    return torch.cat(found) if found else catalogue.new_zeros((0, k))


class RankFlowObjective(StagesObjective):
    """Odd refreshes (the first, third ... epoch) start self-learning, even ones tutor-learning.

    Self-learning: sampled softmax of the retriever over N draws; softmax of the ranker over the clicked item
    and the retriever's current best, uncorrected. Tutor-learning: :func:`tutor_loss` on the retriever's
    current best; the ranker, in eval mode, does not move.

    Finding the retriever's best costs P x M x D a step: the price of this method. ``fit`` must refresh once an
    epoch, as it does by itself.

    Args:
        stages: the two models.
        sampler: of the retriever's negatives: uniform in the paper.
        num_negatives: N.
        num_candidates: T; at most the catalogue.
        best: how many of the T the ranker would show, 1..T - 1.
        a: weight of the order against the values in tutor-learning.
        seed: of the draws.
    """

    refreshes: Tensor

    def __init__(
        self,
        stages: Stages,
        sampler: Sampler,
        *,
        num_negatives: int = 100,
        num_candidates: int = 100,
        best: int = 10,
        a: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(stages, sampler, num_negatives=num_negatives, seed=seed)
        if not 1 <= best < num_candidates:
            raise ValueError(f"best must be in 1..{num_candidates - 1} (num_candidates - 1), got {best}")
        if not 0 <= a <= 1:
            raise ValueError(f"a must be in [0, 1], got {a}")
        self.num_candidates, self.best, self.a = num_candidates, best, a
        # A buffer: a training that resumes goes on with the kind of epoch it was in.
        self.register_buffer("refreshes", torch.zeros((), dtype=torch.int64))

    @property
    def tutoring(self) -> bool:
        """Whether this epoch is one of tutor-learning."""
        refreshes = int(self.refreshes)
        return refreshes > 0 and refreshes % 2 == 0

    def refresh(self) -> None:
        """Gives the sampler the current item vectors and goes on to the other kind of epoch.

        Raises:
            ValueError: there are fewer items than ``num_candidates``.
        """
        items = total(len(self.stages.catalogue))
        if self.num_candidates > items:
            raise ValueError(f"num_candidates is {self.num_candidates}, the catalogue has {items} items")
        super().refresh()
        self.refreshes += 1

    def forward(self, batch: Batch | SequenceBatch) -> dict[str, Tensor]:
        """The loss of a batch: "retriever" and "ranker", or "tutor"."""
        encoded = self.stages.encode(batch)
        with torch.no_grad():
            # A process that has a part of the catalogue is shown the others'.
            vectors, catalogue = gathered(self.stages.item_vectors()), gathered(self.stages.catalogue)
            best = top_items(encoded.queries.detach().float(), vectors, catalogue, self.num_candidates)
        if self.tutoring:
            loss = self._tutor(encoded, best)
            return {"total": loss, "tutor": loss}
        retriever, ranker = self._retriever(encoded), self._ranker(encoded, best)
        return {"total": retriever + ranker, "retriever": retriever, "ranker": ranker}

    def _retriever(self, encoded: Encoded) -> Tensor:
        queries, own = encoded.every_query, encoded.every_target[:, None]
        if self.training:
            self.sampler.observe(own)
        with torch.no_grad():
            drawn = self.sampler.sample(queries.detach(), self.num_negatives, self.generator)
            log_q_own = self.sampler.log_q(queries.detach(), own)[:, 0]
        scores = self.stages.scores(queries, torch.cat([own, drawn.items], 1))
        return sampled_softmax(scores[:, 0], scores[:, 1:], log_q_own, drawn.log_q, drawn.items == own)

    def _ranker(self, encoded: Encoded, best: Tensor) -> Tensor:
        own = encoded.target[:, None]
        _, logits = self.stages.score(encoded, torch.cat([own, best], 1))
        return sampled_softmax(logits[:, 0], logits[:, 1:], 0.0, torch.zeros_like(logits[:, 1:]), best == own)

    def _tutor(self, encoded: Encoded, best: Tensor) -> Tensor:
        scores = self.stages.scores(encoded.queries, best)
        logits = self.stages.clean_logits(encoded, best, scores)
        return tutor_loss(scores, logits, a=self.a, best=self.best)
