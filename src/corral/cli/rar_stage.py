"""RAR for an experiment: its snapshots, keys, neighbours and exposures, from train events, and the joint objective."""

from __future__ import annotations

from corral.cli.experiment import Experiment
from corral.cli.rar_keys import retriever_keys
from corral.cli.rar_parts import make_selector
from corral.rar.exposure import PairLog
from corral.rar.keys import GivenKeys, KeySource, OwnTables, feature_keys
from corral.rar.neighbours import CataloguePools, Neighbours, Refresh
from corral.rar.objective import Exposure, JointObjective
from corral.rar.ranker import RarRanker
from corral.stage_settings import RarSettings


def neighbour_refresh(experiment: Experiment, ranker: RarRanker, chosen: RarSettings) -> Refresh:
    """How neighbours are chosen anew."""
    dataset, inputs = experiment.dataset, experiment.inputs
    assert inputs is not None
    log = inputs.train_log
    source: KeySource
    if chosen.keys == "own":
        source = OwnTables(ranker.ranker.fields)
    elif chosen.keys == "features":
        source = GivenKeys(feature_keys(dataset.user_features), feature_keys(dataset.item_features))
    else:
        rule = ranker.neighbours.rule
        retrieved = chosen.keys == "retriever"
        source = retriever_keys(experiment, rule) if retrieved else inputs.profile_keys(chosen.key_size, rule)
    pools = CataloguePools(log.user, log.item, log.time, ranker.neighbours.rule)
    spec, seed = chosen.model_dump(), experiment.settings.seed
    selectors = make_selector(spec, seed), make_selector(spec, seed + 1)

    def refresh(neighbours: Neighbours) -> None:
        neighbours.refresh(source, pools, selectors)

    return refresh


def choose_neighbours(experiment: Experiment, ranker: RarRanker) -> None:
    """Chooses neighbours once, for an objective that does not do so itself (both stages trained together).

    Raises:
        ValueError: the keys change while the ranker trains.
    """
    assert experiment.settings.ranker is not None
    chosen = experiment.settings.ranker.rar
    assert chosen is not None
    if chosen.keys == "own":
        raise ValueError("ranker.rar.keys=own changes at every step; together use keys=profile, retriever or features")
    neighbour_refresh(experiment, ranker, chosen)(ranker.neighbours)


def joint_objective(experiment: Experiment, ranker: RarRanker) -> JointObjective:
    """Clicks and exposures; neighbours are chosen when training begins, live ones at every epoch."""
    assert experiment.settings.ranker is not None
    chosen = experiment.settings.ranker.rar
    assert chosen is not None
    assert experiment.inputs is not None
    exposures = None
    if chosen.alpha < 1.0:
        log = experiment.inputs.train_log
        exposures = PairLog.of(log.user, log.item, log.time, num_items=experiment.dataset.n_items)
        exposures = exposures.to(experiment.device)
    return JointObjective(
        ranker,
        exposures,
        neighbour_refresh(experiment, ranker, chosen),
        alpha=chosen.alpha,
        granularity=Exposure(chosen.exposure),
        positive_weight=chosen.positive_weight,
        live=chosen.keys == "own",
    )
