"""Makes an example of what this version of corral writes, for tests/stored: a Dataset, a bundle, and what it answers.

    PYTHONPATH=SRC python tools/make_stored_example.py FOLDER plain|evidence|rar|weighted

SRC is the src of a checkout of the version in question. Everything is made from seeds; all of it is under 100 KB.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import torch

from corral.cli.experiment import Experiment
from corral.cli.run import open_recommender, train_run
from corral.data.dataset import Dataset
from corral.data.interactions import Interactions
from corral.settings import load_settings

START = """
threads: 1
data: {path: DATA}
split: {valid_fraction: 0.15, test_fraction: 0.15}
retriever: {kind: RETRIEVER, size: 4}
retriever_training: {epochs: 1, batch_size: 32}
"""
RANKERS = {
    "plain": """
ranker: {kind: deepfm, field_size: 4, hidden: [4], history_length: 4}
ranker_training: {epochs: 1, batch_size: 64, num_negatives: 3}
""",
    "evidence": """
ranker: {kind: din, field_size: 4, hidden: [4], history_length: 4, evidence: {recent: 3}}
together: {kind: corr, epochs: 1, batch_size: 32, num_negatives: 3, num_codewords: 2}
""",
    "rar": """
ranker: {kind: fm, field_size: 4, history_length: 4, as_of: {recent: 2}, rar: {look_alikes: 2, recall_items: 2}}
ranker_training: {loss: clicks, sampled_negatives: 2, epochs: 1, batch_size: 64}
""",
}
RANKERS["weighted"] = (
    RANKERS["evidence"].replace("evidence: {recent: 3}", "evidence: {recent: 3}, linear: {}")
    + "evaluation: {correction: true}\n"
)


def world(kind: str) -> Interactions:
    """16 users, 12 items with a feature of every kind, impressions, a value."""
    random = np.random.default_rng(0)
    n = 160
    events = pl.DataFrame(
        {
            "user_id": [f"user {row}" for row in random.integers(0, 16, n)],
            "item_id": random.integers(100, 112, n),
            "timestamp": np.sort(random.integers(0, 1_000, n)),
            "value": random.integers(1, 6, n).astype(np.float32),
        }
    )
    items = pl.DataFrame(
        {
            "item_id": range(100, 112),
            "title": [f"Item {row}" for row in range(12)],
            "shelf": ["abc"[row % 3] for row in range(12)],
            "tags": [["x", "yz"[row % 2]][: row % 3] for row in range(12)],
            "price": [None if row == 5 else float(row) for row in range(12)],
        }
    )
    shown = events.head(40).with_columns(pl.col("item_id").reverse())
    if kind != "weighted":
        return Interactions.of(events, impressions=shown, item_features=items, text_columns=["title"], source="made up")
    kinds = pl.Series("event_type", random.choice(["view", "purchase"], n))
    weights = {"view": 0.25, "purchase": 1.0}
    return Interactions.of(
        events.with_columns(kinds), item_features=items, text_columns=["title"], source="made up", event_weights=weights
    )


def main(folder: Path, kind: str) -> None:
    """Writes the example."""
    torch.set_num_threads(1)
    dataset = Dataset.write(folder / "data", world(kind), overwrite=True)
    text = (START + RANKERS[kind]).replace("DATA", str(folder / "data"))
    settings = load_settings(text.replace("RETRIEVER", "two-tower" if kind == "plain" else "mf"), kind)
    with tempfile.TemporaryDirectory() as run:
        train_run(Experiment.start(settings, Path(run) / "run", quiet=True))
        recommender = open_recommender(Path(run) / "run", "cpu")
        shutil.rmtree(folder / "bundle", ignore_errors=True)
        shutil.copytree(Path(run) / "run" / "bundle", folder / "bundle")
    users = [*dataset.users.ids.to_pylist(), "somebody new"]
    found = recommender.recommend(users, 5)
    pairs = [(user, 100 + place) for place, user in enumerate(users[:8])]
    answers = {
        "hash": dataset.hash,
        "users": users,
        "items": found.item_ids,
        "scores": np.asarray(found.scores).tolist(),
        "pairs": pairs,
        "predictions": np.asarray(recommender.predict(pairs).values).tolist(),
    }
    (folder / "answers.json").write_text(json.dumps(answers, indent=1).replace("-Infinity", "null") + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
