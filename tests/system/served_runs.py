"""A small run to serve: both stages, trained in seconds."""

from __future__ import annotations

from pathlib import Path

from corral.cli.experiment import Experiment
from corral.cli.run import train_run
from corral.data.dataset import Dataset
from corral.data.synthetic import markov_world
from corral.settings import load_settings

RECIPE = """
threads: 1
data: {path: DATA}
split: {valid_fraction: 0.15, test_fraction: 0.15, repeats: true}
retriever: {kind: sasrec, size: 8, blocks: 1, max_length: 8}
retriever_training: {epochs: 1, batch_size: 64}
ranker: {kind: fm, field_size: 4, history_length: 6}
ranker_training: {epochs: 1, batch_size: 256, num_negatives: 4}
evaluation: {num_candidates: 12, serve_by: fused}
"""


def small_run(folder: Path, seed: int = 0) -> Path:
    """Trains a run in ``folder``; users and items have numbers, 16 items."""
    data = folder / "data"
    if not data.exists():
        Dataset.write(data, markov_world(60, 16, length=14).interactions)
    settings = load_settings(RECIPE.replace("DATA", str(data)), "served", [f"seed={seed}"])
    train_run(Experiment.start(settings, folder / f"run-{seed}", quiet=True))
    return folder / f"run-{seed}"
