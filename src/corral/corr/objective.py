"""CoRR: retriever and ranker trained together; L = L_ra + L_re + w_KD L_KD.

With RAR's ranker L_ra becomes alpha L_ra + (1 - alpha) L_exposure; see ``LearnsBeside``.

Shape letters: P examples, N draws, A positions of a batch, M items in the catalogue.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from corral.corr.distillation import distillation_terms
from corral.corr.schedule import Ramp
from corral.corr.stages import Encoded, Scored, Stages
from corral.corr.stages_objective import StagesObjective
from corral.data.batches import Batch, SequenceBatch
from corral.data.whole_batch import total
from corral.retrieval.retriever import Retriever
from corral.sampling.sampler import Sampler, check_certain
from corral.training.catalogue_softmax import CatalogueSoftmax, ItemSoftmax
from corral.training.losses import sampled_softmax, total_weight, weighted_mean

AT_ONCE = Ramp(1.0)  # the paper's weight, from the first step on


class CooperativeObjective(StagesObjective):
    """Both stages learn in every step; negatives come from the live retriever.

    What is drawn: N items for each of the P examples that the ranker trains on, from Q(. | its query vector).
    L_ra and L_KD use them. L_re uses them and, where the batch has more positions than the ranker trains on,
    N more for each of the others; with ``full_softmax`` it needs none.

    Gradients: L_ra moves no retriever weight, L_KD no ranker weight; sampling and log Q carry none.

    Args:
        stages: the retriever and the ranker.
        sampler: the proposal Q.
        num_negatives: N.
        distillation: w_KD, by step.
        temperature: of the distillation.
        certain_retriever: L_re takes the clicked item as present with certainty (log Q(i+) replaced by -log N).
        certain_ranker: the same for L_ra.
        full_softmax: L_re over the whole catalogue instead of the sample.
        softmax: another form of it, over a catalogue that is not all at hand.
        clean_teacher: the teacher's logits come from a second pass without dropout.
        only_better_teacher: an example is distilled only where the ranker finds the clicked item more
            likely than the retriever does, on the same sample, by the logits that teach.
        seed: of the draws.

    Raises:
        ValueError: ``certain_retriever`` or ``certain_ranker`` with a sampler whose log Q is not normalised.
    """

    step: Tensor

    def __init__(
        self,
        stages: Stages,
        sampler: Sampler,
        *,
        num_negatives: int = 20,
        distillation: Ramp = AT_ONCE,
        temperature: float = 1.0,
        certain_retriever: bool = False,
        certain_ranker: bool = False,
        full_softmax: bool = False,
        softmax: ItemSoftmax | None = None,
        clean_teacher: bool = False,
        only_better_teacher: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(stages, sampler, num_negatives=num_negatives, seed=seed)
        check_certain(sampler, certain_retriever, name="certain_retriever")
        check_certain(sampler, certain_ranker, name="certain_ranker")
        self.distillation, self.temperature = distillation, temperature
        self.certain_retriever, self.certain_ranker = certain_retriever, certain_ranker
        self.full_softmax, self.clean_teacher = full_softmax, clean_teacher
        self.only_better_teacher = only_better_teacher
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.softmax = softmax or CatalogueSoftmax(stages.catalogue)

    def forward(self, batch: Batch | SequenceBatch) -> dict[str, Tensor]:
        """L_ra, L_re, L_KD and their weighted total."""
        encoded = self.stages.encode(batch)
        both = self.stages.sample(encoded, self.sampler, self.num_negatives, self.generator)
        losses = {"ranker": self.ranker_loss(self._clicks(both.logits, both, self.certain_ranker), both)}
        if both.beside is not None:
            losses["beside"] = both.beside
        losses["retriever"] = taught = self._retriever_loss(encoded, both)
        weight = self.distillation(int(self.step))
        if weight > 0:
            losses["distillation"] = self._distillation(encoded, both)
            taught = taught + weight * losses["distillation"]
        losses["total"] = self._total(losses["ranker"], taught)
        if self.training:
            self.step += 1
        return losses

    def _total(self, ranker: Tensor, retriever: Tensor) -> Tensor:
        """What a step minimises, of L_ra and of L_re + w_KD L_KD."""
        return ranker + retriever

    def _clicks(self, values: Tensor, both: Scored, certain: bool) -> Tensor:
        own = torch.full_like(both.log_q[:, 0], -math.log(self.num_negatives)) if certain else both.log_q[:, 0]
        return sampled_softmax(values[:, 0], values[:, 1:], own, both.log_q[:, 1:], both.hit, both.weight)

    def _retriever_loss(self, encoded: Encoded, both: Scored) -> Tensor:
        if self.full_softmax:
            retriever, weight = cast(Retriever, self.stages.retriever), encoded.every_weight
            return self.softmax(retriever, encoded.every_query, encoded.every_target, weight)
        drawn = self._clicks(both.scores, both, self.certain_retriever)
        others = torch.ones(len(encoded.every_query), dtype=torch.bool, device=drawn.device)
        others[encoded.chosen] = False
        rest = others.nonzero()[:, 0]
        number = total(len(rest))
        if number == 0:
            return drawn
        queries, target = encoded.every_query.index_select(0, rest), encoded.every_target[rest]
        with torch.no_grad():
            more = self.sampler.sample(queries.detach(), self.num_negatives, self.generator)
            log_q = torch.cat([self.sampler.log_q(queries.detach(), target[:, None]), more.log_q], 1)
        items = torch.cat([target[:, None], more.items], 1)
        scores = self.stages.scores(queries, items)
        weight = None if encoded.every_weight is None else encoded.every_weight[rest]
        second = Scored(scores, scores, log_q, more.items == target[:, None], items, weight=weight)
        loss = self._clicks(scores, second, self.certain_retriever)
        # The mean over all A positions.
        share: Tensor | float = number / total(len(others))
        if weight is not None and encoded.every_weight is not None:
            share = (total_weight(weight) / total_weight(encoded.every_weight)).to(loss.dtype)
        return (1 - share) * drawn + share * loss

    def _distillation(self, encoded: Encoded, both: Scored) -> Tensor:
        logits = self.stages.clean_logits(encoded, both.items, both.scores) if self.clean_teacher else both.logits
        log_q = both.log_q[:, 1:]
        terms = distillation_terms(both.scores[:, 1:], logits[:, 1:], log_q, temperature=self.temperature)
        if self.only_better_teacher:
            with torch.no_grad():
                ranker = (logits - both.log_q).log_softmax(1)[:, 0]
                retriever = (both.scores - both.log_q).log_softmax(1)[:, 0]
            terms = terms * (ranker > retriever)
        return weighted_mean(terms, both.weight)
