"""Two runs for the studio, trained in seconds on a shop whose titles want to be code: one with RAR, one without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from corral.cli.experiment import Experiment
from corral.cli.run import train_run
from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.data.synthetic import checkerboard_world
from corral.settings import load_settings

WICKED = "</script><script>document.documentElement.dataset.stolen = 1</script><!-- <script>"
RECIPE = """
threads: 1
data: {path: DATA}
split: {repeats: true}
retriever: {kind: two-tower, size: 8, hidden: [8], history_length: 6}
retriever_training: {epochs: 2, batch_size: 64}
ranker: {kind: din, field_size: 4, hidden: [8], history_length: 6}
ranker_training: {loss: clicks, label_at_least: 1, epochs: 20, batch_size: 64, learning_rate: 0.03, metric: auc}
evaluation: {num_candidates: 16, serve_by: SERVED}
"""
RAR = "ranker.rar={blocks: 3, look_alikes: 4, recall_items: 3, bits: 64, rerank: 8, tower_size: 4}"


def studio_runs(folder: Path) -> tuple[Path, Path]:
    """Folders of the run with RAR, served by its ranker, and of the one without, served by the mixture.

    Users click on what their group likes; every fifth title is wicked.
    """
    world = checkerboard_world(60, 24, groups=4, length=14, noise=0.5)
    events, users, items = (
        world.interactions.events,
        world.interactions.user_features,
        world.interactions.item_features,
    )
    assert users is not None
    assert items is not None
    likes = world.likes(events["user_id"].to_numpy(), events["item_id"].to_numpy())
    titles = [WICKED if item % 5 == 1 else f"Lamp & Co <b>No. {item}</b>" for item in items["item_id"]]
    interactions = Interactions.of(
        events.drop("value", strict=False).with_columns(value=pl.Series(likes.astype(np.float32))),
        user_features=users,
        item_features=items.with_columns(title=pl.Series(titles)),
        text_columns=["title"],
        source="made up",
    )
    data = Dataset.write(folder / "data", interactions).path
    made = []
    for name, served, overrides in (("rar", "ranker", [RAR]), ("bare", "fused", [])):
        recipe = RECIPE.replace("DATA", str(data)).replace("SERVED", served)
        train_run(Experiment.start(load_settings(recipe, name, overrides), folder / name, quiet=True))
        made.append(folder / name)
    return made[0], made[1]
