"""The joint baselines' control on their planted world: two stages that train apart.

It gets everything right there, so that none of them can beat it: to losses that are right for each stage a chain of
both has nothing to add, and its gradients vanish where the stages agree. What they lack is seen on real data, see
docs/papers/corr.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from corral.corr.objective import CooperativeObjective
from corral.corr.schedule import Ramp
from corral.sampling.uniform import UniformSampler
from corral.training.fit import fit
from corral.training.optimizers import RowWiseAdam


def test_stages_that_train_apart_leave_nothing_to_gain(planted: Callable[[], Any]) -> None:
    world = planted()
    sampler = UniformSampler(world.stages.catalogue)
    objective = CooperativeObjective(world.stages, sampler, num_negatives=30, distillation=Ramp(0.0))
    fit(objective, world.loader, RowWiseAdam(objective, learning_rate=0.02), epochs=8)
    retriever, ranker, system = world.shares()
    assert min(retriever, ranker) > 0.97
    assert system > 0.99
