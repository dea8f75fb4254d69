"""ray_lists: recommendations for many users, made by several workers of Ray Data, each with the models in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pyarrow as pa

from corral.serving.recommendations import Recommendations
from corral.serving.recommender import TwoStageRecommender

Open = Callable[[], TwoStageRecommender]
Answer = Callable[[TwoStageRecommender, list[Any]], Recommendations]


def ray_lists(
    users: pa.Array, open_recommender: Open, answer: Answer, schema: pl.Schema, *, workers: int, batch_size: int
) -> Iterator[pl.DataFrame]:
    """Lists for users, some at a time, in the users' order: what one process would make.

    Args:
        users: external ids.
        open_recommender: called once in each worker.
        answer: the lists of some users.
        schema: of the frames.
        workers: how many recommenders there are, one processor each.
        batch_size: users of one frame.
    """
    import ray

    ray.data.DataContext.get_current().execution_options.preserve_order = True
    blocks = [pa.table({"id": users[start : start + batch_size]}) for start in range(0, len(users), batch_size)]
    made = ray.data.from_arrow(blocks).map_batches(
        _Lister,
        fn_constructor_args=(open_recommender, answer, schema),
        batch_size=None,
        batch_format="pyarrow",
        concurrency=workers,
        num_cpus=1,
    )
    for block in made.iter_batches(batch_size=None, batch_format="pyarrow"):
        frame = pl.from_arrow(block)
        assert isinstance(frame, pl.DataFrame)
        yield frame


class _Lister:
    """One of the workers."""

    def __init__(self, open_recommender: Open, answer: Answer, schema: pl.Schema) -> None:
        import torch

        torch.set_num_threads(1)
        self._recommender, self._answer, self._schema = open_recommender(), answer, schema

    def __call__(self, users: pa.Table) -> pa.Table:
        frame = self._answer(self._recommender, users["id"].to_pylist()).to_frame()
        # A batch without a list would else have columns without a type.
        return frame.select(pl.col(name).cast(kind) for name, kind in self._schema.items()).to_arrow()
