"""ICC: one loss on the score of the whole cascade (Gallagher et al., WSDM 2019).

Each item gets the score of the stage that decides on it: softly, the retriever's where it is dropped, the
ranker's where it survives. The loss of that score trains both stages.

Shape letters: P examples, N draws shared by both stages.
"""

from __future__ import annotations

import torch
from torch import Tensor

from corral.corr.stages import Stages
from corral.corr.stages_objective import StagesObjective
from corral.data.batches import Batch, SequenceBatch
from corral.sampling.sampler import Sampler
from corral.training.losses import full_precision, sampled_softmax


def soft_gate(scores: Tensor, hit: Tensor, *, k: int, temperature: float) -> Tensor:
    """How far each item survives a cut after the k best: sigmoid((s - s_(k)) / temperature).

    s_(k), the k-th largest score of the row, carries no gradient: lowering the bar is no way to survive.

    Args:
        scores: [P, 1 + N], column 0 the clicked item.
        hit: True where a draw is the clicked item [P, N]; such draws take no place among the k.
        k: 1..1 + N. Where hits leave fewer than k items, all survive.
        temperature: > 0, in units of the score.

    Returns:
        [P, 1 + N] in [0, 1]; of no meaning where ``hit``.
    """
    places = scores.detach().clone()
    places[:, 1:].masked_fill_(hit, -torch.inf)
    bar = places.topk(k, dim=1).values[:, -1:]
    return torch.sigmoid((scores - bar) / temperature)


def icc_loss(scores: Tensor, logits: Tensor, hit: Tensor, *, log_q: Tensor, k: int, temperature: float) -> Tensor:
    """Softmax cross entropy of the chain score (1 - g) s + g r, g the soft gate; natural logarithm.

    Args:
        scores: retriever scores s [P, 1 + N], column 0 the clicked item; gradient, through the gate too.
        logits: ranker logits r [P, 1 + N]; gradient.
        hit: True where a draw is the clicked item [P, N]; masked out.
        log_q: log-probability of drawing each item [P, 1 + N], subtracted from the chain score (log-Q
            correction); zeros for uniform draws. No gradient.
        k: items that the retriever lets through, of the 1 + N.
        temperature: of the gate.

    Returns:
        Scalar, mean over P; 0 for P = 0.
    """
    scores, logits = full_precision(scores), full_precision(logits)
    gate = soft_gate(scores, hit, k=k, temperature=temperature)
    chain = (1 - gate) * scores + gate * logits
    return sampled_softmax(chain[:, 0], chain[:, 1:], log_q[:, 0], log_q[:, 1:], hit)


class IccObjective(StagesObjective):
    """ICC over the clicked item and N draws.

    The retriever hears of an item only where it drops it, or near the bar: what survives is scored by the
    ranker. A small ``k`` therefore teaches the retriever more of the order at the top.

    Args:
        stages: the two models.
        sampler: where the draws come from; it sees the retriever's item vectors at every refresh.
        num_negatives: N.
        k: how many of the 1 + N items the retriever lets through, at least 1.
        temperature: of the gate, in units of the retriever's score.
        seed: of the draws.
    """

    def __init__(
        self,
        stages: Stages,
        sampler: Sampler,
        *,
        num_negatives: int = 100,
        k: int = 10,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(stages, sampler, num_negatives=num_negatives, seed=seed)
        if not 1 <= k <= 1 + num_negatives:
            raise ValueError(f"k must be in 1..{1 + num_negatives} (num_negatives + 1), got {k}")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.k, self.temperature = k, temperature

    def forward(self, batch: Batch | SequenceBatch) -> dict[str, Tensor]:
        """The loss of a batch."""
        encoded = self.stages.encode(batch)
        drawn = self.stages.sample(encoded, self.sampler, self.num_negatives, self.generator)
        loss = icc_loss(
            drawn.scores, drawn.logits, drawn.hit, log_q=drawn.log_q, k=self.k, temperature=self.temperature
        )
        return {"total": loss}
