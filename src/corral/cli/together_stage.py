"""Both stages of an experiment trained at once: CoRR, or one of the joint methods it is compared with."""

from __future__ import annotations

import json

from torch import nn

from corral.cli.experiment import Experiment
from corral.cli.fit_objective import fit_objective
from corral.cli.ranker_stage import new_ranker, new_stages, order_judge
from corral.cli.retriever_stage import click_loader, item_softmax, new_retriever, sampler_for, train_retriever
from corral.cli.run_files import EPOCHS_FILE, write_text
from corral.corr.alternating import AlternatingObjective
from corral.corr.baselines.icc import IccObjective
from corral.corr.baselines.lcron import LcronObjective
from corral.corr.baselines.rankflow import RankFlowObjective
from corral.corr.objective import CooperativeObjective
from corral.corr.schedule import Ramp
from corral.corr.stages import LearnsBeside, Stages
from corral.rar.ranker import RarRanker
from corral.stage_settings import CorrSettings, IccSettings, LcronSettings, RankFlowSettings


def together_objective(experiment: Experiment, stages: Stages) -> nn.Module:
    """What both stages learn at once."""
    chosen, seed = experiment.settings.together, experiment.settings.seed
    assert chosen is not None
    if experiment.dataset.events.weight is not None and not isinstance(chosen, CorrSettings):
        raise ValueError(
            f"together.kind={chosen.kind} does not know weights of events, and {experiment.dataset.name} has some: use "
            "corr, or train the stages apart"
        )
    beside = isinstance(stages.ranker, LearnsBeside) and stages.ranker.alpha < 1
    if beside and not isinstance(chosen, CorrSettings):
        raise ValueError(
            f"together.kind={chosen.kind} has no place for what the ranker learns beside clicks, RAR's exposures: use "
            "corr, or ranker.rar.alpha=1, which learns from clicks alone"
        )
    sampler, n = sampler_for(experiment, stages.retriever, chosen), chosen.num_negatives
    if isinstance(chosen, IccSettings):
        return IccObjective(
            stages,
            sampler,
            num_negatives=n,
            k=chosen.gate_depth,
            temperature=chosen.gate_temperature,
            seed=seed,
        )
    if isinstance(chosen, RankFlowSettings):
        return RankFlowObjective(
            stages,
            sampler,
            num_negatives=n,
            num_candidates=chosen.depth,
            best=chosen.best,
            a=chosen.order_weight,
            seed=seed,
        )
    if isinstance(chosen, LcronSettings):
        return LcronObjective(
            stages,
            sampler,
            num_negatives=n,
            k_retriever=chosen.depth_retriever,
            k_ranker=chosen.depth_ranker,
            temperature=chosen.sort_temperature,
            rejection=chosen.rejection,
            seed=seed,
        )
    kind = AlternatingObjective if chosen.alternating else CooperativeObjective
    return kind(
        stages,
        sampler,
        num_negatives=n,
        distillation=Ramp(chosen.distillation, chosen.distillation_start, chosen.distillation_ramp),
        temperature=chosen.temperature,
        certain_retriever=chosen.certain_retriever,
        certain_ranker=chosen.certain_ranker,
        full_softmax=chosen.full_softmax,
        softmax=item_softmax(experiment),
        clean_teacher=chosen.clean_teacher,
        only_better_teacher=chosen.only_better_teacher,
        seed=seed,
    )


def share_item_table(retriever: nn.Module, ranker: nn.Module) -> None:
    """Makes the ranker read the retriever's item table, so that both train it.

    Raises:
        ValueError: one of them has no such table, or their sizes differ.
    """
    inner = ranker.ranker if isinstance(ranker, RarRanker) else ranker
    table, fields = getattr(retriever, "item_embedding", None), getattr(inner, "fields", None)
    own = fields.catalogue.id_tables() if fields is not None else []
    if table is None or len(own) != 1 or own[0].weight.shape != table.weight.shape:
        raise ValueError(
            "together.shared_table: needs a retriever with an item table, and ranker.field_size = its size"
        )
    own[0].weight, own[0].sparse = table.weight, table.sparse


def train_together(experiment: Experiment) -> tuple[nn.Module, nn.Module]:
    """Both stages, trained (or loaded).

    The ranker's best epoch comes first, it overfits while the retriever still learns: the retriever may keep its last
    epoch's weights, if validation says so. Not where the ranker holds parts of it: its table, or neighbours by it.
    """
    chosen = experiment.settings.together
    assert chosen is not None
    retriever = train_retriever(experiment) if chosen.warm_start else new_retriever(experiment)
    ranker = new_ranker(experiment, retriever)
    shared = isinstance(chosen, CorrSettings) and chosen.shared_table
    if shared:
        share_item_table(retriever, ranker)
    stages = new_stages(experiment, retriever, ranker, chosen.max_per_user)
    state = fit_objective(
        experiment,
        "together",
        together_objective(experiment, stages),
        click_loader(experiment, retriever, chosen, experiment.history_length),
        chosen,
        order_judge(experiment, ranker, retriever),
        later=None if shared or isinstance(ranker, RarRanker) else retriever,
    )
    if experiment.writes and state.later is not None:
        kept = {"best epoch": state.best, "retriever of the last": state.later, "used": state.later > state.best}
        write_text(experiment.directory / EPOCHS_FILE, json.dumps(kept))
    for model in (retriever, ranker):
        experiment.share_unknown(model)
    return retriever, ranker
