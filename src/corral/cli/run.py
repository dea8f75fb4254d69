"""A whole run: both stages trained, the mixture tuned on validation, a bundle saved, the funnel judged on test."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import nn

from corral.cli import build, run_files
from corral.cli.build import build_part
from corral.cli.continuation import write_continuation
from corral.cli.correction_stage import correct
from corral.cli.earlier_run import EarlierRun
from corral.cli.experiment import Experiment
from corral.cli.own_parts import NO_PARTS, OwnParts
from corral.cli.progress import progress
from corral.cli.ranker_stage import click_logits, train_ranker, tune
from corral.cli.retriever_stage import served_channel, train_retriever
from corral.cli.run_files import BUNDLE, EVALUATION, SETTINGS_FILE, write_manifest
from corral.cli.scaled_training import judging, sharing
from corral.cli.together_stage import train_together
from corral.data.split import Part
from corral.evaluation.calibration import Calibration, fit_calibration
from corral.evaluation.click_metrics import click_metrics
from corral.evaluation.evaluate import evaluate
from corral.evaluation.mixture import Mixture, MixtureTuning
from corral.evaluation.other_rows import OtherRows, OtherRowsChannel, OtherRowsRanker
from corral.evaluation.result import Evaluation, Stage
from corral.retrieval.channels import RecallChannel
from corral.retrieval.index_rule import IndexRule
from corral.scale.sharded_embedding import unshard_tables
from corral.serving.bundle import is_bundle, load_bundle, save_bundle
from corral.serving.histories import UserHistories
from corral.serving.item_index import served_index
from corral.serving.module_spec import ModuleSpec
from corral.serving.queries import Queries
from corral.serving.recommender import TwoStageRecommender
from corral.serving.serving_tables import ServingTables


@dataclass(frozen=True)
class Models:
    """What a run trained, and how the two scores make the final order."""

    retriever: nn.Module
    ranker: nn.Module | None
    mixture: Mixture | None
    served: Stage


def _served(experiment: Experiment, tuning: MixtureTuning) -> Stage:
    """What orders the served list: as the recipe says, or the best on validation."""
    wish = experiment.settings.evaluation.serve_by
    if wish == "validation":
        # The grid holds both ends, so a mixture is chosen only where it beats either stage.
        return {0.0: Stage.RETRIEVER, 1.0: Stage.RANKER}.get(tuning.mixture.weight, Stage.FUSED)
    return Stage(wish)


def train_stages(experiment: Experiment) -> tuple[nn.Module, nn.Module | None]:
    """Retriever and ranker, if there is one; trainings that are finished are loaded, interrupted ones go on.

    Raises:
        ValueError: the settings ask for workers that nobody started.
    """
    if experiment.settings.scale.workers and experiment.workers is None:
        raise ValueError(f"scale.workers={experiment.settings.scale.workers}: only corral train starts workers")
    if experiment.settings.together is not None:
        return train_together(experiment)
    retriever = train_retriever(experiment)
    return retriever, train_ranker(experiment, retriever) if experiment.settings.ranker else None


def train_models(experiment: Experiment) -> Models:
    """Both stages, and their mixture."""
    retriever, ranker = train_stages(experiment)
    for model in (retriever, ranker):
        if model is not None:
            unshard_tables(model)
    if ranker is None:
        return Models(retriever, None, None, Stage.RETRIEVER)
    with progress("Mixture", quiet=experiment.quiet), judging(experiment.workers):
        correct(experiment, retriever, ranker)
        tuning = tune(experiment, retriever, ranker)
    return Models(retriever, ranker, tuning.mixture, _served(experiment, tuning))


def open_models(run: Path, device: str, own: OwnParts = NO_PARTS) -> Models:
    """What a finished run trained, from its bundle: nothing is trained or tuned again.

    Raises:
        ValueError: the run holds no bundle.
    """
    served = open_recommender(run, device, own)
    return Models(cast(nn.Module, served.retriever), cast(Any, served.ranker), served.mixture, served.serve_by)


def judge(experiment: Experiment, models: Models, part: Part = Part.TEST) -> Evaluation:
    """The funnel on a part's targets."""
    channel = served_channel(experiment, models.retriever)
    return judge_channel(experiment, channel, models.ranker, models.mixture, models.served, part)


def judge_channel(
    experiment: Experiment,
    channel: RecallChannel,
    ranker: nn.Module | None,
    mixture: Mixture | None,
    served: Stage,
    part: Part,
) -> Evaluation:
    """Any stage 1, with or without a stage 2, on the experiment's targets and by its rules."""
    settings = experiment.settings.evaluation
    with progress("Evaluation", quiet=experiment.quiet):
        result = evaluate(
            experiment.targets(part),
            channel,
            ranker=ranker,
            num_candidates=settings.num_candidates,
            mixture=mixture,
            serve_by=served,
            item_counts=experiment.counts,
            user_counts=experiment.split.train_users(experiment.dataset),
            catalogue=experiment.catalogue.numpy(),
            protocol={**experiment.protocol(), "part": part.name.lower()},
            batch_size=settings.batch_size,
            device=experiment.device,
        )
    if ranker is not None and experiment.has_clicks:
        logits, labels, users = click_logits(experiment, ranker, part)
        result.metrics.update({f"click/{name}": value for name, value in click_metrics(labels, logits, users).items()})
    return result


def judge_earlier(experiment: Experiment, earlier: EarlierRun, part: Part = Part.TEST) -> Evaluation:
    """The earlier run's bundle as it stands, with all it counted then, on the targets of the run that continues it."""
    served, dataset = earlier.recommender, experiment.dataset
    tables = served.tables
    rows = OtherRows((tables.users, dataset.users), (tables.items, dataset.items), experiment.device)
    ranker = None if served.ranker is None else OtherRowsRanker(served.ranker, rows)
    channel = OtherRowsChannel(served.channel, rows)
    return judge_channel(experiment, channel, ranker, served.mixture, served.serve_by, part)


def new_recommender(experiment: Experiment, models: Models) -> TwoStageRecommender:
    """What a run's bundle holds: its models over all that the data set knows; workers make it together."""
    dataset = experiment.dataset
    calibration = Calibration()
    if models.ranker is not None and experiment.has_clicks:
        logits, labels, _ = click_logits(experiment, models.ranker, Part.VALID)
        calibration = fit_calibration(logits, labels)
    tables = ServingTables(
        dataset.users,
        dataset.items,
        dataset.user_features,
        dataset.item_features,
        UserHistories.of(dataset.events),
    )
    specs = {
        stage: ModuleSpec(spec["kind"], {key: value for key, value in spec.items() if key != "kind"})
        for stage, spec in experiment.specs.items()
    }
    retriever, settings = cast(Any, models.retriever), experiment.settings
    rule, queries = IndexRule(**settings.index.model_dump()), Queries(tables, experiment.history_length)
    n = settings.evaluation.num_candidates
    with sharing(experiment.workers):
        index = served_index(rule, queries, retriever, experiment.catalogue, n, experiment.device)
    return TwoStageRecommender(
        tables,
        retriever,
        index,
        experiment.popularity,
        ranker=cast(Any, models.ranker),
        mixture=models.mixture,
        calibration=calibration,
        num_candidates=n,
        serve_by=models.served,
        history_length=experiment.history_length,
        repeats=settings.split.repeats,
        index_rule=rule,
        specs=specs,
    )


def train_run(experiment: Experiment) -> Evaluation:
    """Trains, saves the bundle, judges on test, writes the manifest.

    Raises:
        ValueError: another process trains the run.
    """
    # Workers: who started them holds the lock, as one that was cut off must not keep the others from going on.
    with run_files.only_trainer(experiment.directory) if experiment.workers is None else nullcontext():
        return _train_run(experiment)


def _train_run(experiment: Experiment) -> Evaluation:
    began = time.perf_counter()
    models = train_models(experiment)
    trained = time.perf_counter()
    with judging(experiment.workers):
        recommender = new_recommender(experiment, models)
    if experiment.writes:
        save_bundle(
            experiment.directory / BUNDLE,
            recommender,
            data_name=experiment.dataset.name,
            data_hash=experiment.dataset.hash,
        )
    with judging(experiment.workers):
        result = judge(experiment, models)
    if not experiment.writes:
        return result
    result.save(experiment.directory / EVALUATION)
    if experiment.earlier is not None:
        before = judge_earlier(experiment, experiment.earlier)
        write_continuation(experiment, experiment.earlier, before, result, trained - began)
    write_manifest(
        experiment.directory,
        {
            "protocol": experiment.protocol(),
            "seconds": {"train": trained - began, "evaluate": result.seconds["total"]},
            "served": models.served.value,
            "mixture_weight": None if models.mixture is None else models.mixture.weight,
            "workers": 1 if experiment.workers is None else experiment.workers.size,
        },
    )
    return result


def bundle_folder(path: Path) -> Path:
    """The bundle that a path means: itself, or the one of a run directory.

    Raises:
        ValueError: there is none.
    """
    folder = path / BUNDLE if (path / BUNDLE).is_dir() else path
    if folder == path and (path / SETTINGS_FILE).is_file():
        raise ValueError(f"{path}: the run has no bundle yet; give its recipe to corral train again to finish it")
    if not is_bundle(folder):
        raise ValueError(f"{path}: neither a bundle nor a run with one; make one with corral train")
    return folder


def open_recommender(path: Path, device: str = "auto", own: OwnParts = NO_PARTS) -> TwoStageRecommender:
    """The recommender of a bundle, or of a run directory that holds one.

    Args:
        path: the bundle or the run.
        device: where the models go.
        own: parts that the bundle calls ``own``; their code is not in it.

    Raises:
        ValueError: neither, the bundle is damaged (the message names the file), or a part of one's own is missing.
    """
    return load_bundle(bundle_folder(path), partial(build_part, own=own), build.choose_device(device))
