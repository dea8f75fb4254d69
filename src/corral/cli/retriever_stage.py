"""Stage 1 of an experiment: built, trained, judged on validation, and as the channel that is served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from corral.cli import build
from corral.cli.experiment import Experiment
from corral.cli.fit_objective import Validate, event_loader, fit_objective
from corral.cli.scaled_training import sharing
from corral.data.clicks import Clicks
from corral.data.sequence_loader import SequenceLoader
from corral.data.split import Part
from corral.evaluation.evaluate import evaluate
from corral.retrieval.channels import ColdStartChannel, RetrieverChannel
from corral.retrieval.index import ExactIndex
from corral.retrieval.retriever import CausalRetriever
from corral.sampling.sampler import Sampler
from corral.scale.sharded_multi_index import ShardedMultiIndexSampler
from corral.scale.sharded_softmax import ShardedSoftmax
from corral.serving.item_index import item_vectors
from corral.training.catalogue_softmax import CatalogueSoftmax, ItemSoftmax
from corral.training.fit import Loader
from corral.training.retrieval_objectives import FullSoftmaxObjective, InBatchObjective, SampledSoftmaxObjective
from corral.training_settings import SampledTrainingSettings, TrainingSettings


def new_retriever(experiment: Experiment) -> nn.Module:
    """Stage 1 before training, or as the run that this one continues left it."""
    torch.manual_seed(experiment.settings.seed)
    dataset = experiment.dataset
    model = build.make_retriever(
        experiment.specs["retriever"],
        dataset.user_features,
        dataset.item_features,
        torch.from_numpy(experiment.counts),
        experiment.own,
    )
    if experiment.earlier is not None and list(model.parameters()):
        experiment.earlier.start("retriever", model)
    return experiment.placed(model)


def item_index(experiment: Experiment, retriever: Any) -> ExactIndex:
    """An exact index of stage 1's current item vectors, over the catalogue; workers encode them in shares."""
    with sharing(experiment.workers):
        vectors = item_vectors(retriever, experiment.catalogue, experiment.device)
    return ExactIndex(vectors.to(experiment.device), experiment.catalogue)


def served_channel(experiment: Experiment, retriever: Any) -> ColdStartChannel:
    """Stage 1 as it is served, with its current weights."""
    return ColdStartChannel(RetrieverChannel(retriever, item_index(experiment, retriever)), experiment.popularity)


def sampler_for(
    experiment: Experiment,
    retriever: Any,
    chosen: SampledTrainingSettings,
) -> Sampler:
    """The sampler that a training asks for; proposals that follow a query follow this retriever's."""
    catalogue = experiment.catalogue
    size = retriever.encode_items(catalogue[:1].to(experiment.device)).shape[1]
    if experiment.workers is not None and chosen.sampler == "midx":
        return ShardedMultiIndexSampler(
            catalogue,
            experiment.workers,
            size=size,
            num_codewords=chosen.num_codewords,
            seed=experiment.settings.seed,
        )
    return build.make_sampler(
        chosen.sampler,
        catalogue,
        torch.from_numpy(experiment.counts),
        size=size,
        num_codewords=chosen.num_codewords,
        depth=chosen.depth,
        seed=experiment.settings.seed,
        own=experiment.own,
    )


def item_softmax(experiment: Experiment, label_smoothing: float = 0.0) -> ItemSoftmax:
    """The full softmax over the catalogue, wherever its vectors are."""
    if experiment.workers is None:
        return CatalogueSoftmax(experiment.catalogue, label_smoothing=label_smoothing)
    return ShardedSoftmax(
        experiment.catalogue, experiment.own_items, experiment.workers, label_smoothing=label_smoothing
    )


def retriever_objective(experiment: Experiment, model: nn.Module) -> nn.Module:
    """What stage 1 learns from clicks alone."""
    chosen = experiment.settings.retriever_training
    counts, catalogue = torch.from_numpy(experiment.counts), experiment.own_items
    if chosen.loss == "full-softmax":
        softmax = item_softmax(experiment, chosen.label_smoothing)
        return FullSoftmaxObjective(model, catalogue, softmax=softmax)
    if chosen.loss == "in-batch":
        return InBatchObjective(model, catalogue, counts)
    return SampledSoftmaxObjective(
        model,
        catalogue,
        sampler_for(experiment, model, chosen),
        num_negatives=chosen.num_negatives,
        binary=chosen.loss == "bce",
        certain=chosen.certain,
        seed=experiment.settings.seed,
    )


def click_loader(experiment: Experiment, retriever: nn.Module, chosen: TrainingSettings, history_length: int) -> Loader:
    """Whole sequences for a causal retriever, else clicks one by one with ``history_length`` items each."""
    settings = experiment.settings
    if isinstance(retriever, CausalRetriever):
        return SequenceLoader(
            experiment.dataset,
            experiment.split,
            length=experiment.retriever_history_length,
            batch_size=chosen.batch_size,
            seed=settings.seed,
        )
    clicks = Clicks.of(experiment.dataset, experiment.split, Part.TRAIN)
    return event_loader(experiment, chosen, history_length, clicks)


def retriever_judge(experiment: Experiment, model: nn.Module) -> Validate:
    """Stage 1's own list on validation: the metrics that ``settings.watchable`` names."""
    settings = experiment.settings
    few = experiment.validation.sample(settings.retriever_training.validation_queries, seed=0)
    depth = settings.evaluation.num_candidates

    def validate() -> Mapping[str, float]:
        experiment.share_unknown(model)
        result = evaluate(
            few,
            served_channel(experiment, model),
            num_candidates=depth,
            cutoffs=(10, depth),
            recall_cutoffs=(depth,),
            batch_size=settings.evaluation.batch_size,
            device=experiment.device,
        )
        return {name: result.metrics[name] for name in ("ndcg@10", "recall@10", "mrr@10", f"recall@{depth}")}

    return validate


def train_retriever(experiment: Experiment) -> nn.Module:
    """Stage 1, trained (or loaded, if it was trained before)."""
    model = new_retriever(experiment)
    if not list(model.parameters()):
        return model
    fit_objective(
        experiment,
        "retriever",
        retriever_objective(experiment, model),
        click_loader(
            experiment,
            model,
            experiment.settings.retriever_training,
            experiment.retriever_history_length,
        ),
        experiment.settings.retriever_training,
        retriever_judge(experiment, model),
    )
    experiment.share_unknown(model)
    return model
