"""RAR around a module that knows nothing of corral: it learns what only look-alikes and recall items can tell."""

import torch
from torch import nn

from corral.data.taste_world import TasteWorld, taste_world
from corral.evaluation.click_metrics import auc
from corral.ranking.ctr.foreign import ForeignCtr, ForeignForm
from corral.ranking.evidence import EvidenceRanker
from corral.ranking.fields import Fields
from corral.ranking.ranker import FieldRanker
from corral.rar.co_interaction import CoInteraction
from corral.rar.exposure import PairLog
from corral.rar.joint_ranker import JointRanker
from corral.rar.keys import GivenKeys
from corral.rar.neighbours import CataloguePools, Neighbours
from corral.rar.objective import JointObjective
from corral.rar.random_selector import RandomSelector
from corral.rar.ranker import RarRanker
from corral.rar.selection import ExactSelector, Selector
from corral.rar.time_rules import TimeRule

SIZE = 8


def enriched(world: TasteWorld, selector: Selector) -> JointObjective:
    torch.manual_seed(0)
    users, items, rule = len(world.user_keys), len(world.item_keys), TimeRule.static()
    fields = Fields(users, items, field_size=SIZE, pool_history=False, id_dropout=0.3)
    module = nn.Sequential(nn.Linear(4 * SIZE, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid())
    ranker = RarRanker(
        EvidenceRanker(FieldRanker(fields, ForeignCtr(module, form=ForeignForm.FLAT, probabilities=True)), None),
        Neighbours(users, items, rule),
        CoInteraction(SIZE, SIZE, tower_size=16, output_size=SIZE),
    )
    train = world.train
    log = [column.numpy() for column in (train.user, train.item, torch.zeros_like(train.user))]
    keys, pools = GivenKeys(world.user_keys, world.item_keys), CataloguePools(*log, rule)
    exposures = PairLog.of(*log, num_items=items)
    refresh = lambda neighbours: neighbours.refresh(keys, pools, (selector, selector))  # noqa: E731
    return JointObjective(JointRanker(ranker, exposures, refresh, alpha=0.9))


def held_out_auc(world: TasteWorld, objective: JointObjective) -> float:
    objective.refresh()
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.005)
    for _ in range(4):
        for at in torch.randperm(len(world.train)).split(128):
            optimizer.zero_grad()
            objective(world.train.batch(at))["total"].backward()
            optimizer.step()
    asked = world.test.batch(torch.arange(len(world.test)))
    with torch.no_grad():
        logits = objective.eval().ranker(asked.query, asked.item[:, None])[:, 0]
    return auc(world.test.label.numpy(), logits.numpy())


def test_it_learns_from_neighbours_alone() -> None:
    world = taste_world(300, 200, groups=4)
    assert held_out_auc(world, enriched(world, RandomSelector(seed=0))) < 0.6
    assert held_out_auc(world, enriched(world, ExactSelector("cosine"))) > 0.75


def test_both_losses_reach_the_towers_and_clicks_the_module() -> None:
    world = taste_world(60, 40, groups=4)
    objective = enriched(world, ExactSelector("cosine"))
    objective.refresh()
    objective(world.train.batch(torch.arange(64)))["click"].backward()
    parts = (objective.ranker.ranker.ranker.ranker.ctr, objective.ranker.ranker.co_interaction)
    for part in parts:
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in part.parameters())
