"""The recalled pool (RAR, section 1): what the retriever recalls for the user, and of it what is like the item."""

import numpy as np
import torch
from torch.nn import functional

from corral.data.features import FeatureTable
from corral.rar.keys import GivenKeys
from corral.rar.neighbours import CataloguePools, RecalledNeighbours
from corral.rar.selection import ExactSelector, SimHashSelector
from corral.rar.time_rules import TimeRule

USERS, ITEMS, SIZE, POOL, COUNT = 20, 30, 6, 8, 3


def log() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.integers(2, USERS - 1, 120), random.integers(2, ITEMS - 1, 120), np.arange(120)


def made(rule: TimeRule, selectors: list[torch.nn.Module]) -> tuple[RecalledNeighbours, GivenKeys, CataloguePools]:
    generator = torch.Generator().manual_seed(1)
    keys = GivenKeys(torch.randn(USERS, SIZE, generator=generator), torch.randn(ITEMS, SIZE, generator=generator))
    keys.item_vectors[5] = 0.0
    neighbours = RecalledNeighbours(USERS, ITEMS, rule, selectors, look_alikes=2, recall_items=COUNT, pool_size=POOL)
    pools = CataloguePools(*log(), rule)
    neighbours.refresh(keys, pools, (ExactSelector("cosine"), ExactSelector("cosine")))
    return neighbours, keys, pools


def test_the_most_alike_of_what_is_recalled() -> None:
    rule = TimeRule.blocks(log()[2], 3)
    neighbours, keys, pools = made(rule, [ExactSelector("cosine") for _ in range(rule.snapshots)])
    user, items = torch.arange(2, 12), torch.arange(2, 12)[:, None] + torch.arange(4)
    time = torch.arange(10) * 14  # every block, and after train
    snapshot = rule.snapshot(time, user)
    found = neighbours.recall_items(snapshot, user, items)
    for b in range(10):
        pool = pools.items(int(snapshot[b])).tolist()
        recalled = sorted(pool, key=lambda i, b=b: -float(keys.user_vectors[user[b]] @ keys.item_vectors[i]))[:POOL]
        for n, item in enumerate(items[b].tolist()):
            alike = functional.cosine_similarity(keys.item_vectors[item][None], keys.item_vectors, dim=1)
            others = sorted((i for i in recalled if i != item), key=lambda i, alike=alike: -float(alike[i]))[:COUNT]
            wanted = others + [0] * (COUNT - len(others)) if item != 5 else [0] * COUNT
            assert found[b, n].tolist() == wanted
    assert not found[snapshot == 0].any()


def test_fingerprints_choose_within_the_same_pool_and_are_loaded_again() -> None:
    rule = TimeRule.static()
    neighbours, _, _ = made(rule, [SimHashSelector(64, seed=0)])
    user, items = torch.arange(2, 12), torch.arange(2, 12)[:, None]
    snapshot = torch.zeros(10, dtype=torch.int64)
    found = neighbours.recall_items(snapshot, user, items)
    for b in range(10):
        assert set(found[b, 0].tolist()) - {0} <= set(neighbours.recalled[0, user[b]].tolist())
    other = RecalledNeighbours(
        USERS, ITEMS, rule, [SimHashSelector(64, seed=0)], look_alikes=2, recall_items=COUNT, pool_size=POOL
    )
    other.load_state_dict(neighbours.state_dict())
    assert torch.equal(other.recall_items(snapshot, user, items), found)


def test_a_longer_catalogue_recalls_the_same_items() -> None:
    rule = TimeRule.static()
    neighbours, _, _ = made(rule, [ExactSelector("cosine")])
    user, items = torch.arange(2, 12), torch.arange(2, 12)[:, None]
    snapshot = torch.zeros(10, dtype=torch.int64)
    before = neighbours.recall_items(snapshot, user, items)
    moved = torch.cat([torch.arange(10), torch.arange(10, ITEMS) + 3])
    neighbours.renumber(moved, FeatureTable(ITEMS + 3, {}))
    assert torch.equal(neighbours.recall_items(snapshot, user, moved[items]), moved[before])
    assert not neighbours.recall_items(snapshot, user, torch.full((10, 1), 11)).any()
