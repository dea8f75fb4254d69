"""Nothing at or after the time cut reaches a training input: the future is corrupted, and nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from corral.data.dataset import Dataset
from corral.data.event_loader import EventLoader
from corral.data.examples import Examples
from corral.data.interactions import Interactions
from corral.data.sequence_loader import SequenceLoader
from corral.data.split import Part, Split, time_cut
from corral.data.synthetic import CheckerboardWorld, checkerboard_world
from corral.data.targets import targets
from corral.retrieval.feature_fields import fit_scales
from corral.sampling.popularity import PopularitySampler
from corral.sampling.uniform import UniformSampler
from corral.training.retrieval_objectives import InBatchObjective

VALID_FROM, TEST_FROM = 60, 80  # of times 0..99
Corruption = Callable[[pl.DataFrame, np.random.Generator], pl.DataFrame]


def replace(future: pl.DataFrame, random: np.random.Generator) -> pl.DataFrame:
    """Other items (new ones among them), other users (new ones too), other values."""
    n = len(future)
    return future.with_columns(
        pl.Series("user_id", random.integers(-5, 70, n)),
        pl.Series("item_id", random.integers(-9, 60, n)),
        pl.Series("value", random.integers(0, 9, n), dtype=pl.Float32),
    )


def delete(future: pl.DataFrame, random: np.random.Generator) -> pl.DataFrame:
    """All but one event of validation and one of test."""
    parts = future["timestamp"] >= TEST_FROM
    return pl.concat([future.filter(~parts).head(1), future.filter(parts).head(1)])


def permute(future: pl.DataFrame, random: np.random.Generator) -> pl.DataFrame:
    """Items and values trade places, and times, within the future."""
    return future.with_columns(
        pl.Series(name, future[name].to_numpy()[random.permutation(len(future))])
        for name in ("item_id", "value", "timestamp")
    )


def double(future: pl.DataFrame, random: np.random.Generator) -> pl.DataFrame:
    """Everything happens twice, once more by users and items that nobody had seen."""
    return pl.concat([future, future.with_columns(pl.col("user_id") - 1000, pl.col("item_id") + 1000)])


CORRUPTIONS: dict[str, Corruption] = {
    "replace": replace,
    "delete": delete,
    "permute": permute,
    "double": double,
}


@pytest.fixture(scope="module")
def world() -> CheckerboardWorld:
    """60 users and 40 items; times 0..99 with many ties. Some items and users occur late only."""
    made = checkerboard_world(60, 40, length=20, seed=3)
    events = made.interactions.events
    late = (events["item_id"] >= 36) | (events["user_id"] >= 55)
    events = events.filter(~late | (events["timestamp"] >= VALID_FROM))
    value = pl.Series("value", np.arange(len(events)) % 5, dtype=pl.Float32)
    shown = events[::3].with_columns(pl.col("item_id").reverse(), value=pl.lit(0, dtype=pl.Float32))
    interactions = Interactions(
        events.with_columns(value),
        impressions=shown,
        user_features=made.interactions.user_features,
        item_features=made.interactions.item_features,
    )
    return CheckerboardWorld(interactions, made.user_group, made.item_group, made.liked)


def corrupt(table: pl.DataFrame, how: Corruption, random: np.random.Generator) -> pl.DataFrame:
    """The same past, in the same order, with another future; rows of both are mixed in the file."""
    past = table.filter(table["timestamp"] < VALID_FROM)
    future = how(table.filter(table["timestamp"] >= VALID_FROM), random)
    place = np.sort(random.integers(0, len(past) + 1, len(future)))
    order = np.argsort(np.concatenate([np.arange(len(past)) + 0.5, place]), kind="stable")
    return pl.concat([past, future.select(past.columns).cast(dict(past.schema))])[order]


def corrupted(interactions: Interactions, how: Corruption) -> Interactions:
    """Clicks and impressions with another future."""
    random = np.random.default_rng(8)
    assert interactions.impressions is not None
    return Interactions(
        corrupt(interactions.events, how, random),
        impressions=corrupt(interactions.impressions, how, random),
        user_features=interactions.user_features,
        item_features=interactions.item_features,
    )


def training_inputs(dataset: Dataset, split: Split) -> dict[str, Any]:
    """All that training sees, with external ids for rows (whose numbers shift when ids come and go)."""

    def users(rows: torch.Tensor) -> list[Any]:
        return dataset.users.external(rows.flatten().numpy())

    def items(rows: torch.Tensor) -> list[Any]:
        return dataset.items.external(rows.flatten().numpy())

    train = split.rows(Part.TRAIN)

    def events(rows: torch.Tensor) -> list[int]:
        """Numbered among train events."""
        found = rows.flatten().numpy()
        return np.where(found < 0, -1, np.searchsorted(train, found)).tolist()

    seen: dict[str, Any] = {}
    sequences = SequenceLoader(dataset, split, length=5, batch_size=7, seed=1)
    seen["sequence batches"] = [
        (
            users(batch.user),
            items(batch.items),
            events(batch.event),
            batch.time.tolist(),
            batch.query_index.tolist(),
            batch.target_mask.tolist(),
        )
        for epoch in range(2)
        for batch in sequences.epoch(epoch)
    ]
    label = (np.asarray(dataset.events.value) >= 3).astype(np.float32)
    for at_most in (0, 3):
        examples = Examples.of(dataset, split, Part.TRAIN, label=label)
        loader = EventLoader(examples, history_length=6, batch_size=32, seed=1, max_per_user=at_most)
        seen[f"event batches, {at_most}"] = [
            (
                users(batch.query.user),
                events(batch.query.event),
                items(batch.query.history),
                batch.query.time.tolist(),
                items(batch.item),
                batch.label.tolist(),
            )
            for epoch in range(2)
            for batch in loader.epoch(epoch)
        ]
    catalogue = torch.from_numpy(split.catalogue(dataset))
    counts = torch.from_numpy(split.train_counts(dataset))
    names = items(catalogue)
    seen["catalogue"] = names
    seen["train counts"] = dict(zip(names, counts[catalogue].tolist(), strict=True))
    seen["counts elsewhere"] = int(counts.sum() - counts[catalogue].sum())
    seen["user scales"] = fit_scales(dataset.user_features, dataset.events.user[train])
    seen["item scales"] = fit_scales(dataset.item_features, dataset.events.item[train])
    query = torch.zeros(1, 1)
    samplers = {
        "uniform": UniformSampler(catalogue),
        "popularity": PopularitySampler(catalogue, counts[catalogue], power=0.75),
    }
    for name, sampler in samplers.items():
        generator = torch.Generator().manual_seed(4)
        seen[f"{name} log_q"] = sampler.log_q(query, catalogue[None])[0].tolist()
        seen[f"{name} draws"] = items(sampler.sample(query, 50, generator).items)
    shares = InBatchObjective(torch.nn.Identity(), catalogue, counts).log_share
    seen["in-batch shares"] = shares[catalogue].tolist()
    return seen


def cut(dataset: Dataset) -> Split:
    return time_cut(dataset, valid_from=VALID_FROM, test_from=TEST_FROM)


def everything_trains(dataset: Dataset) -> Split:
    """A split that leaks on purpose."""
    return Split("leaky", np.zeros(len(dataset.events), dtype=np.uint8), cut(dataset).history_rule)


@pytest.fixture(scope="module")
def clean(world: CheckerboardWorld, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.write(tmp_path_factory.mktemp("clean") / "data", world.interactions)


@pytest.mark.parametrize("how", CORRUPTIONS)
def test_no_training_input_knows_the_future(world: CheckerboardWorld, clean: Dataset, how: str, tmp_path: Path) -> None:
    other = Dataset.write(tmp_path / "data", corrupted(world.interactions, CORRUPTIONS[how]))
    before, after = training_inputs(clean, cut(clean)), training_inputs(other, cut(other))
    assert len(before["sequence batches"]) > 20
    changed = [name for name in before if before[name] != after[name]]
    assert changed == []

    # The corruption is real: it changes what is asked.
    def asked(dataset: Dataset) -> tuple[list[Any], list[Any]]:
        found = targets(dataset, cut(dataset), Part.TEST, history_length=5)
        return dataset.users.external(found.user), dataset.items.external(found.items)

    assert asked(clean) != asked(other)


def test_a_leak_would_have_shown(world: CheckerboardWorld, clean: Dataset, tmp_path: Path) -> None:
    """With a split that trains on the future, every one of the inputs changes under some corruption."""
    before, leaked = training_inputs(clean, everything_trains(clean)), set()
    for name, how in CORRUPTIONS.items():
        other = Dataset.write(tmp_path / name, corrupted(world.interactions, how))
        after = training_inputs(other, everything_trains(other))
        leaked |= {what for what in before if before[what] != after[what]}
    assert leaked == set(before) - {"counts elsewhere"}  # which is 0 by definition
