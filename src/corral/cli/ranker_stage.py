"""Stage 2 of an experiment: built, trained and judged on validation, and its mixture with stage 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from corral.cli import build
from corral.cli.experiment import Experiment
from corral.cli.fit_objective import Validate, event_loader, fit_objective
from corral.cli.progress import progress
from corral.cli.rar_stage import joint_ranker, train_exposures
from corral.cli.retriever_stage import click_loader, sampler_for, served_channel
from corral.cli.scaled_training import judging, sharing
from corral.corr.stages import Stages
from corral.corr.two_stage import TwoStageObjective
from corral.data.batches import Query
from corral.data.split import Part
from corral.data.targets import Targets
from corral.evaluation.click_metrics import click_metrics
from corral.evaluation.mixture import MixtureTuning, tune_mixture
from corral.evaluation.turns import present_turns
from corral.ranking.evidence import Evidence, EvidenceRanker, ReadsScores
from corral.ranking.ranker import FieldRanker
from corral.ranking.remembered_evidence import RememberedEvidence
from corral.rar.exposure_head import ExposureHeadObjective
from corral.rar.objective import JointObjective
from corral.rar.ranker import RarRanker
from corral.retrieval.evaluation_mode import evaluation_mode
from corral.retrieval.retriever import Retriever
from corral.training.fit import Loader
from corral.training.ranking_objectives import ClickObjective

# Logits of so many events at once: more are slower, and take memory that training does not (up to 300 MB at 4,096).
_EVENTS = 1024
# Evidence of examples is kept up to so many bytes; beyond, it is worked out for each batch anew.
_REMEMBERED_BYTES = 1 << 31


def new_ranker(experiment: Experiment, retriever: nn.Module) -> nn.Module:
    """Stage 2 before training, or as the run that this one continues left it; it reads this retriever's score."""
    torch.manual_seed(experiment.settings.seed + 1)
    dataset = experiment.dataset
    model = build.make_ranker(
        experiment.specs["ranker"],
        dataset.user_features,
        dataset.item_features,
        experiment.inputs,
        experiment.own,
    )
    if experiment.earlier is not None:
        experiment.earlier.start("ranker", model)
    if isinstance(model, ReadsScores):
        model.connect(cast(Retriever, retriever))
    return experiment.placed(model)


def new_stages(experiment: Experiment, retriever: nn.Module, ranker: nn.Module, positions: int) -> Stages:
    """Both stages over the same examples."""
    return Stages(
        retriever,
        joint_ranker(experiment, ranker, retriever) if isinstance(ranker, RarRanker) else ranker,
        experiment.own_items,
        positions=positions,
        history_length=experiment.ranker_history_length,
        seed=experiment.settings.seed + 2,
    )


def validation_queries(experiment: Experiment) -> Targets:
    """The validation queries that stage 2 and the mixture are judged on."""
    return experiment.validation.sample(experiment.settings.ranker_training.validation_queries, seed=0)


def order_judge(experiment: Experiment, ranker: nn.Module, retriever: nn.Module) -> Validate:
    """nDCG@10 of the list as it would be served, and of each stage, over stage 1's present candidates."""

    def validate() -> Mapping[str, float]:
        experiment.share_unknown(retriever)
        experiment.share_unknown(ranker)
        tuning = tune(experiment, retriever, ranker)
        served = {"ranker": tuning.ranker_value, "retriever": tuning.retriever_value}
        return {
            "ndcg@10": served.get(experiment.settings.evaluation.serve_by, tuning.fused_value),
            "retriever/ndcg@10": tuning.retriever_value,
            "ranker/ndcg@10": tuning.ranker_value,
            "mixture_weight": tuning.mixture.weight,
        }

    return validate


def of_events(
    experiment: Experiment,
    part: Part,
    numbers: Callable[[Query, Tensor], Tensor],
    shape: tuple[int, ...] = (),
    chosen: np.ndarray | None = None,
) -> np.ndarray:
    """What ``numbers`` says of (query [B], item [B, 1]), [B, 1, *shape], of a part's events, or of the chosen ones [n].

    Returns:
        [n, *shape], float64.
    """
    examples, turns = experiment.examples(part), present_turns()
    chosen = np.arange(len(examples)) if chosen is None else chosen
    found = [torch.zeros(0, *shape, dtype=torch.float64)]
    starts = range(0, len(chosen), _EVENTS)
    if turns is not None:  # the same batches as one process, so the same bits
        first, stop = (len(starts) * place // turns.size for place in (turns.rank, turns.rank + 1))
        starts = starts[first:stop]
    with torch.no_grad():
        for start in starts:
            # As long as in service: the retriever's score, where the ranker reads it, is that of this history.
            batch = examples.batch(chosen[start : start + _EVENTS], experiment.history_length).to(experiment.device)
            found.append(numbers(batch.query, batch.item[:, None])[:, 0].double().cpu())
    every = torch.cat(found)
    if turns is not None:
        every = torch.cat(turns.gather(every.to(experiment.device))).cpu()
    return every.numpy()


def click_logits(experiment: Experiment, ranker: nn.Module, part: Part) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, labels and users [n] of a part's events."""
    examples = experiment.examples(part)
    with evaluation_mode(ranker):
        return of_events(experiment, part, ranker), examples.label, np.asarray(examples.user)


def click_judge(experiment: Experiment, ranker: nn.Module, retriever: nn.Module | None = None) -> Validate:
    """Click metrics on validation; ``retriever``: whose score the ranker may read."""

    def validate() -> Mapping[str, float]:
        experiment.share_unknown(ranker)
        with judging(experiment.workers, retriever):
            logits, labels, users = click_logits(experiment, ranker, Part.VALID)
        return click_metrics(labels, logits, users)

    return validate


def remember_evidence(experiment: Experiment, ranker: nn.Module) -> None:
    """Works the evidence of all train and validation examples out once, where it fits into memory."""
    inner = ranker.ranker if isinstance(ranker, RarRanker) else ranker
    if not isinstance(inner, EvidenceRanker) or inner.evidence is None:
        return
    parts = [experiment.examples(part) for part in (Part.TRAIN, Part.VALID)]
    total, size = sum(len(part) for part in parts), cast(Evidence, inner.evidence).size
    if 4 * total * size > _REMEMBERED_BYTES:
        return

    workers = experiment.workers
    pieces = [
        (examples, at)
        for examples in parts
        for at in np.array_split(np.arange(len(examples)), max(len(examples) // 1024, workers.size if workers else 1))
        if len(at)
    ]
    if workers is not None:
        pieces = pieces[workers.share(len(pieces))]
    batches = (examples.batch(at, experiment.history_length).to(experiment.device) for examples, at in pieces)
    with sharing(workers), progress("Evidence", sum(len(at) for _, at in pieces), quiet=experiment.quiet) as advance:
        inner.remember(RememberedEvidence(inner.evidence, batches, advance))


def _click_training(experiment: Experiment, ranker: nn.Module, retriever: nn.Module) -> tuple[nn.Module, Loader]:
    """Stage 2 on labels: it needs no retriever, but where RAR compares its vectors."""
    chosen, examples = experiment.settings.ranker_training, experiment.examples(Part.TRAIN)
    objective: nn.Module
    if isinstance(ranker, RarRanker):
        objective = JointObjective(joint_ranker(experiment, ranker, retriever))
    elif chosen.exposure_head:
        objective = _with_exposure_head(experiment, ranker)
    else:
        objective = ClickObjective(ranker)
    return objective, event_loader(experiment, chosen, experiment.history_length, examples)


def _with_exposure_head(experiment: Experiment, ranker: nn.Module) -> ExposureHeadObjective:
    """Clicks, and a second head that learns what train shows."""
    return ExposureHeadObjective(
        cast(FieldRanker | EvidenceRanker, ranker),
        train_exposures(experiment),
        experiment.catalogue,
        alpha=1.0 - experiment.settings.ranker_training.exposure_head,
        seed=experiment.settings.seed + 3,
    )


def _order_training(experiment: Experiment, ranker: nn.Module, retriever: nn.Module) -> tuple[nn.Module, Loader]:
    """Stage 2 on clicks against sampled items, beside the finished retriever."""
    chosen = experiment.settings.ranker_training
    objective = TwoStageObjective(
        new_stages(experiment, retriever, ranker, chosen.max_per_user),
        sampler_for(experiment, retriever, chosen),
        num_negatives=chosen.num_negatives,
        binary=chosen.loss == "bce",
        certain=chosen.certain,
        noisy_scores=chosen.noisy_scores,
        seed=experiment.settings.seed + 1,
    )
    return objective, click_loader(experiment, retriever, chosen, experiment.history_length)


def train_ranker(experiment: Experiment, retriever: nn.Module) -> nn.Module:
    """Stage 2, trained (or loaded); it is judged by the order of stage 1's candidates, or by its clicks."""
    ranker, chosen = new_ranker(experiment, retriever), experiment.settings.ranker_training
    if experiment.has_clicks:
        remember_evidence(experiment, ranker)
        objective, loader = _click_training(experiment, ranker, retriever)
        judge = click_judge(experiment, ranker, retriever)
    else:
        objective, loader = _order_training(experiment, ranker, retriever)
        judge = order_judge(experiment, ranker, retriever)
    fit_objective(experiment, "ranker", objective, loader, chosen, judge)
    experiment.share_unknown(ranker)
    return ranker


def tune(experiment: Experiment, retriever: nn.Module, ranker: nn.Module) -> MixtureTuning:
    """The mixture of both scores that is best on validation."""
    settings = experiment.settings.evaluation
    return tune_mixture(
        validation_queries(experiment),
        served_channel(experiment, retriever),
        ranker,
        num_candidates=settings.num_candidates,
        batch_size=settings.batch_size,
        device=experiment.device,
    )
