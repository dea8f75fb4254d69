"""RAR for an experiment: its snapshots, keys, neighbours and exposures, from train events."""

from __future__ import annotations

from torch import nn

from corral.cli.experiment import Experiment
from corral.cli.rar_keys import LiveKeys, retriever_keys
from corral.cli.rar_parts import make_selector
from corral.data.dataset import Dataset
from corral.data.examples import Examples
from corral.data.split import Part
from corral.evidence_settings import RarSettings
from corral.rar.as_of_neighbours import AsOfNeighbours
from corral.rar.exposure import PairLog
from corral.rar.joint_ranker import Exposure, JointRanker
from corral.rar.keys import GivenKeys, KeySource, OwnTables, feature_keys
from corral.rar.neighbours import CataloguePools, Neighbours
from corral.rar.ranker import RarRanker
from corral.rar.selection import Selector


def key_source(experiment: Experiment, ranker: RarRanker, retriever: nn.Module, chosen: RarSettings) -> KeySource:
    """What is compared to choose neighbours."""
    dataset, inputs, rule = experiment.dataset, experiment.inputs, ranker.neighbours.rule
    assert inputs is not None
    if chosen.keys == "own":
        return OwnTables(ranker.ranker.fields)
    if chosen.keys == "features":
        return side_keys(dataset)
    if chosen.keys == "live":
        return LiveKeys(experiment, retriever, rule)
    return (
        retriever_keys(experiment, rule) if chosen.keys == "retriever" else inputs.profile_keys(chosen.key_size, rule)
    )


def side_keys(dataset: Dataset) -> GivenKeys:
    """Users and items by their features."""
    return GivenKeys(feature_keys(dataset.user_features), feature_keys(dataset.item_features))


def selectors(chosen: RarSettings, seed: int) -> tuple[Selector, Selector]:
    """What finds neighbours: of users, and of items."""
    spec = chosen.model_dump()
    return make_selector(spec, seed), make_selector(spec, seed + 1)


def train_exposures(experiment: Experiment) -> PairLog:
    """What train shows, by time: its events, and what was shown and not clicked; sampled negatives were never shown."""
    shown = Examples.of(experiment.dataset, experiment.split, Part.TRAIN, impressions=True)
    exposures = PairLog.of(shown.user, shown.item, shown.time, num_items=experiment.dataset.n_items)
    return exposures.to(experiment.device)


def joint_ranker(experiment: Experiment, ranker: RarRanker, retriever: nn.Module) -> JointRanker:
    """The ranker with its exposures; neighbours are chosen when training begins, live ones at every refresh.

    Args:
        experiment: whose train events are looked up.
        ranker: RAR's.
        retriever: the stage beside it, finished or learning too.
    """
    assert experiment.settings.ranker is not None
    assert experiment.inputs is not None
    chosen, log, seed = experiment.settings.ranker.rar, experiment.inputs.train_log, experiment.settings.seed
    assert chosen is not None
    exposures = None
    if chosen.alpha < 1.0:
        exposures = train_exposures(experiment)
    source = key_source(experiment, ranker, retriever, chosen)
    pools = CataloguePools(log.user, log.item, log.time, ranker.neighbours.rule)
    own_selectors = selectors(chosen, seed)
    if isinstance(ranker.neighbours, AsOfNeighbours):
        ranker.neighbours.take(*experiment.inputs.profiles_and_log(chosen.key_size, ranker.neighbours.rule))

    def refresh(neighbours: Neighbours) -> None:
        neighbours.refresh(source, pools, own_selectors)

    joint = JointRanker(
        ranker,
        exposures,
        refresh,
        alpha=chosen.alpha,
        granularity=Exposure(chosen.exposure),
        positive_weight=chosen.positive_weight,
        live=source.live,
    )
    if experiment.earlier is not None:
        joint.refreshes += 1  # the warm-up is over: live neighbours are chosen at the first refresh
    return joint
