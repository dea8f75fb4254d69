"""Engine: what does work that can be cut into pieces, this process or Ray, and what follows for each verb."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from corral.data.dataset import Dataset
    from corral.scale.ray_lists import Answer, Open
    from corral.serving.recommender import TwoStageRecommender

# Tasks of a processor: with more than one, a slow one at the end keeps fewer others waiting.
_TASKS = 4


class Engine(StrEnum):
    """This process, or Ray: a cluster that RAY_ADDRESS names, else the processors of this machine."""

    LOCAL = "local"
    RAY = "ray"


@contextmanager
def preparing(engine: Engine) -> Iterator[Callable[..., Dataset]]:
    """``prepare_dataset``, its tasks run by the engine."""
    from functools import partial

    from corral.data.dataset_prepare import prepare_dataset

    if engine is Engine.LOCAL:
        yield prepare_dataset
        return
    from corral.scale.local_ray import local_ray
    from corral.scale.ray_each import ray_each

    with local_ray() as cpus:
        yield partial(prepare_dataset, writers=_TASKS * cpus, each=ray_each)


@contextmanager
def all_lists(
    engine: Engine,
    users: pa.Array,
    recommender: TwoStageRecommender,
    open_again: Open,
    answer: Answer,
    schema: pl.Schema,
    batch_size: int,
) -> Iterator[Iterator[pl.DataFrame]]:
    """The lists of all users as frames of ``batch_size`` users each, the same from either engine.

    Args:
        engine: Ray has as many recommenders as processors, each on the processor.
        users: their ids.
        recommender: what makes the lists in this process.
        open_again: opens the same in another one.
        answer: the lists of some users.
        schema: of the frames.
        batch_size: users of a frame.
    """
    if engine is Engine.LOCAL:
        starts = range(0, len(users), batch_size)
        yield (answer(recommender, users[start : start + batch_size].to_pylist()).to_frame() for start in starts)
        return
    from corral.scale.local_ray import local_ray
    from corral.scale.ray_lists import ray_lists

    with local_ray() as cpus:
        yield ray_lists(users, open_again, answer, schema, workers=cpus, batch_size=batch_size)
