"""RAR for an experiment: its snapshots, keys, neighbours and exposures, from train events, and the joint objective."""

from __future__ import annotations

from corral.cli.experiment import Experiment
from corral.rar.exposure import PairLog
from corral.rar.keys import GivenKeys, KeySource, OwnTables, feature_keys
from corral.rar.neighbours import CataloguePools, Neighbours, Refresh
from corral.rar.objective import Exposure, JointObjective
from corral.rar.random_selector import RandomSelector
from corral.rar.ranker import RarRanker
from corral.rar.selection import ExactSelector, Selector, SimHashSelector
from corral.stage_settings import RarSettings


def _selectors(chosen: RarSettings, seed: int) -> tuple[Selector, Selector]:
    def one(offset: int) -> Selector:
        if chosen.selector == "random":
            return RandomSelector(seed=seed + offset)
        if chosen.selector == "simhash":
            return SimHashSelector(chosen.bits, seed=seed + offset, rerank=chosen.rerank)
        return ExactSelector(chosen.selector)

    return one(0), one(1)


def neighbour_refresh(experiment: Experiment, ranker: RarRanker, chosen: RarSettings) -> Refresh:
    """How neighbours are chosen anew."""
    dataset, log = experiment.dataset, experiment.train_log
    source: KeySource
    if chosen.keys == "own":
        source = OwnTables(ranker.ranker.fields)
    elif chosen.keys == "features":
        source = GivenKeys(feature_keys(dataset.user_features), feature_keys(dataset.item_features))
    else:
        source = experiment.profile_keys(chosen.key_size, ranker.neighbours.rule)
    pools = CataloguePools(log.user, log.item, log.time, ranker.neighbours.rule)
    selectors = _selectors(chosen, experiment.settings.seed)

    def refresh(neighbours: Neighbours) -> None:
        neighbours.refresh(source, pools, selectors)

    return refresh


def joint_objective(experiment: Experiment, ranker: RarRanker) -> JointObjective:
    """Clicks and exposures; neighbours are chosen when training begins, live ones at every epoch."""
    assert experiment.settings.ranker is not None
    chosen = experiment.settings.ranker.rar
    assert chosen is not None
    exposures, log = None, experiment.train_log
    if chosen.alpha < 1.0:
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
