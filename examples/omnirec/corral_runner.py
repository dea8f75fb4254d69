"""A runner of corral for OmniRec: its algorithms are corral's recipes, its configurations the settings to change.

OmniRec starts this file in an environment of its own, hands over its split as CSV files, and judges what comes back.
See docs/how-to/export.md.
"""

from __future__ import annotations

from typing import Any

import polars as pl
from omnirec_runner.runner import Runner, RunnerService

import corral
from corral.data.interactions import ColumnMap


class Corral(Runner):
    """Trains a recipe on OmniRec's train and validation part; lists for the users of its test part."""

    def fit(self) -> None:
        """Trains, or goes on where an interrupted fit was.

        OmniRec's train part trains; of its validation part every other event decides when to stop and how to mix the
        stages, and the rest is corral's own test, which nothing depends on. OmniRec's test part is not read.

        Raises:
            ValueError: the data are ratings.
        """
        train, valid = pl.read_csv(self.train_file), pl.read_csv(self.val_file)
        if "rating" in train.columns:
            raise ValueError("corral recommends from what people did: add OmniRec's MakeImplicit to the preprocessing")
        parts = [train.with_columns(part=pl.lit("train"))]
        turn = pl.int_range(pl.len()) % 2
        parts.append(valid.with_columns(part=pl.when(turn == 0).then(pl.lit("valid")).otherwise(pl.lit("test"))))
        events = pl.concat(parts, how="diagonal_relaxed")
        timed = "timestamp" in events.columns
        columns = ColumnMap(user="user", item="item", timestamp="timestamp" if timed else None, part="part")
        settings = {**self.algorithm_config, "split": {"rule": "given"}}
        corral.TwoStage(self.algorithm_name, settings, run=self.checkpoint_dir / "run", quiet=True).fit(
            events, columns=columns
        )

    def predict(self) -> dict[str, list[Any]]:
        """The lists of all test users that training knew, none of them with an item that the user had."""
        model = corral.TwoStage.load(self.checkpoint_dir / "run")
        known = set(model.dataset.users.ids.to_pylist())
        users = [user for user in pl.read_csv(self.test_file)["user"].unique().sort().to_list() if user in known]
        found = model.recommend(users, self.recommendation_n or 10, filter_seen=True).to_frame()
        named = found.rename({"user_id": "user", "item_id": "item"}).select("user", "item", "score", "rank")
        return named.to_dict(as_series=False)


if __name__ == "__main__":
    RunnerService(Corral).run()
