"""The classical click model: LightGBM on the as-of statistics that all models have, and the features they embed.

    features: as-of statistics strictly before each event (corral.data.as_of), and what else the recipe's ranker reads
    (ranker.behaviour: what look-alikes did); user and item features: categorical and
    numeric as they are, multi-valued ones as one indicator a value; where a setting says so, log train counts of user
    and item, and the item's id as a category.

    python benchmarks/gbdt_clicks.py ml-100k-clicks
    python benchmarks/gbdt_clicks.py ml-100k-clicks data.name=ml-1m --bare    # without as-of statistics

Prints every setting that was tried, and the click metrics of the one that is best on validation.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import torch

from corral.cli.experiment import Experiment
from corral.cli.recipes import read_recipe
from corral.data.as_of import AsOfStatistics
from corral.data.examples import Examples
from corral.data.features import FeatureKind, FeatureTable
from corral.data.split import Part
from corral.evaluation.click_metrics import click_metrics
from corral.ranking.as_of_evidence import AsOfEvidence

# Multi-valued features with more values than this are left out: one indicator a value would be too many.
MOST_VALUES = 200
ROUNDS, PATIENCE = 1000, 50
FIXED = {
    "objective": "binary",
    "learning_rate": 0.05,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 10.0,
    "verbosity": -1,
    "num_threads": 1,
    "deterministic": True,
}
# All that is tried; the number of rounds is chosen on validation too.
SETTINGS: tuple[dict[str, Any], ...] = (
    {"num_leaves": 15, "min_data_in_leaf": 100, "feature_fraction": 0.5, "counts": False, "item_id": False},
    {"num_leaves": 31, "min_data_in_leaf": 100, "feature_fraction": 0.5, "counts": False, "item_id": False},
    {"num_leaves": 63, "min_data_in_leaf": 200, "feature_fraction": 0.5, "counts": False, "item_id": False},
    {"num_leaves": 31, "min_data_in_leaf": 400, "feature_fraction": 0.3, "counts": False, "item_id": False},
    {"num_leaves": 31, "min_data_in_leaf": 100, "feature_fraction": 0.5, "counts": True, "item_id": False},
    {"num_leaves": 31, "min_data_in_leaf": 100, "feature_fraction": 0.5, "counts": False, "item_id": True},
)


@dataclass(frozen=True)
class GbdtClicks:
    """The trees that are best on validation.

    Attributes:
        valid: logits of ``experiment.examples(Part.VALID)`` [n].
        test: logits of ``experiment.examples(Part.TEST)`` [n].
        chosen: its setting, with ``rounds``.
        tried: every setting with its rounds and what it reached on validation.
    """

    valid: np.ndarray
    test: np.ndarray
    chosen: dict[str, Any]
    tried: list[dict[str, Any]]


@dataclass(frozen=True)
class Columns:
    """Features of some rows: values [n, F], their names, and which are categories."""

    values: np.ndarray
    names: list[str]
    categories: list[str]

    def without(self, prefixes: Sequence[str]) -> Columns:
        """Those whose names begin otherwise."""
        keep = [at for at, name in enumerate(self.names) if not name.startswith(tuple(prefixes))]
        names = [self.names[at] for at in keep]
        return Columns(self.values[:, keep], names, [name for name in self.categories if name in names])


def default_statistics(experiment: Experiment) -> AsOfStatistics:
    """Those of the ranker, or the same by default settings where it has none."""
    assert experiment.inputs is not None
    found = experiment.inputs.evidence.get("as_of")
    if isinstance(found, AsOfEvidence):
        return found.statistics
    return AsOfStatistics.of(
        experiment.dataset,
        experiment.split,
        experiment.inputs.as_of_rule,
        labels=experiment.labels,
        impressions=True,
    )


def _side(table: FeatureTable, rows: np.ndarray, whose: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Feature columns of these rows by name, and which are categories."""
    found: dict[str, np.ndarray] = {}
    categories = []
    for column in table.columns.values():
        name = f"{whose}: {column.name}"
        if column.kind is FeatureKind.NUMERIC:
            found[name] = np.asarray(column.values)[rows]
        elif column.kind is FeatureKind.CATEGORICAL:
            found[name] = np.asarray(column.values)[rows].astype(np.float32)
            categories.append(name)
        elif column.kind is FeatureKind.MULTI and column.cardinality <= MOST_VALUES:
            values = column.padded(16)
            for code in range(2, column.cardinality):
                found[f"{name} {code}"] = (values == code).any(1)[rows].astype(np.float32)
    return found, categories


def columns(experiment: Experiment, examples: Examples, statistics: AsOfStatistics | None) -> Columns:
    """All features of the examples."""
    user, item = np.asarray(examples.user).astype(np.int64), np.asarray(examples.item).astype(np.int64)
    dataset, found = experiment.dataset, {}
    if statistics is not None:
        at, rows = np.asarray(examples.time).astype(np.int64), []
        for start in range(0, len(examples), 16_384):
            some = slice(start, start + 16_384)
            asked = (torch.from_numpy(column[some]) for column in (user, item, at))
            users, items, times = asked
            rows.append(statistics(users, items[:, None], times)[:, 0].numpy())
        found.update(zip(statistics.names, np.concatenate(rows).T, strict=True))
    assert experiment.inputs is not None
    for name, evidence in experiment.inputs.evidence.items():
        if name != "as_of":
            batches = (
                examples.batch(rows, experiment.history_length)
                for rows in np.array_split(np.arange(len(examples)), len(examples) // 1024 + 1)
            )
            numbers = np.concatenate([evidence(one.query, one.item[:, None])[:, 0].numpy() for one in batches])
            found.update({f"{name}: {number}": column for number, column in enumerate(numbers.T)})
    categories = []
    for table, rows_of, whose in ((dataset.user_features, user, "user"), (dataset.item_features, item, "item")):
        side, kinds = _side(table, rows_of, whose)
        found.update(side)
        categories += kinds
    train = dataset.events.user[experiment.split.part == Part.TRAIN]
    users_seen = np.bincount(train, minlength=dataset.n_users)
    found["count: user"], found["count: item"] = np.log1p(users_seen[user]), np.log1p(experiment.counts[item])
    # An item without a train event is the unknown one, as for the models that embed it.
    found["id: item"] = np.where(experiment.counts[item] > 0, item, 1)
    values = np.stack(list(found.values()), axis=1).astype(np.float32)
    return Columns(values, list(found), [*categories, "id: item"])


def best_gbdt_clicks(experiment: Experiment, *, as_of: bool = True, metric: str = "auc") -> GbdtClicks:
    """The best of ``SETTINGS`` on validation.

    Args:
        experiment: whose ranker learns from click labels.
        as_of: whether the trees have as-of statistics: those of the ranker, or with default settings.
        metric: of ``click_metrics``, higher is better.
    """
    statistics = default_statistics(experiment) if as_of else None
    parts = {part: experiment.examples(part) for part in Part}
    whole = {part: columns(experiment, examples, statistics) for part, examples in parts.items()}
    best: tuple[float, int, lightgbm.Booster] | None = None
    tried = []
    for number, setting in enumerate(SETTINGS):
        some = {part: one.without(_left_out(setting)) for part, one in whole.items()}
        train = some[Part.TRAIN]
        data = lightgbm.Dataset(
            train.values, parts[Part.TRAIN].label, feature_name=_plain(train.names), categorical_feature=_at(train)
        )
        valid = lightgbm.Dataset(some[Part.VALID].values, parts[Part.VALID].label, reference=data)
        own = {name: value for name, value in setting.items() if name not in ("counts", "item_id")}
        began = time.perf_counter()
        booster = lightgbm.train(
            {
                **FIXED,
                **own,
                "metric": "auc" if metric == "auc" else "binary_logloss",
                "seed": experiment.settings.seed,
            },
            data,
            num_boost_round=ROUNDS,
            valid_sets=[valid],
            callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
        )
        reached = click_metrics(
            parts[Part.VALID].label,
            _logits(booster, some[Part.VALID]),
            np.asarray(parts[Part.VALID].user),
        )
        tried.append(
            {
                **setting,
                "rounds": booster.best_iteration,
                "seconds": round(time.perf_counter() - began, 1),
                **{f"valid_{name}": reached[name] for name in ("auc", "gauc", "logloss")},
            }
        )
        if best is None or reached[metric] > best[0]:
            best = (reached[metric], number, booster)
    assert best is not None
    _, number, booster = best
    left_out = _left_out(SETTINGS[number])
    valid_logits, test_logits = (_logits(booster, whole[part].without(left_out)) for part in (Part.VALID, Part.TEST))
    return GbdtClicks(valid_logits, test_logits, tried[number], tried)


def _left_out(setting: dict[str, Any]) -> list[str]:
    """Prefixes of the columns that a setting does without."""
    return [f"{prefix}: " for prefix, name in (("count", "counts"), ("id", "item_id")) if not setting[name]] or ["\0"]


def _plain(names: Sequence[str]) -> list[str]:
    """LightGBM refuses some signs in names."""
    return [
        f"{number} {''.join(c if c.isalnum() else '_' for c in name)}".replace(" ", "_")
        for number, name in enumerate(names)
    ]


def _at(some: Columns) -> list[int]:
    return [some.names.index(name) for name in some.categories]


def _logits(booster: lightgbm.Booster, some: Columns) -> np.ndarray:
    return np.asarray(booster.predict(some.values, raw_score=True, num_iteration=booster.best_iteration, num_threads=1))


def main(arguments: Sequence[str] | None = None) -> None:
    """Fits and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--bare", action="store_true", help="without as-of statistics")
    options = parser.parse_intermixed_args(arguments)
    torch.set_num_threads(1)
    settings = read_recipe(options.recipe, tuple(options.overrides))
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment.start(settings, Path(folder) / "run", quiet=True)
        found = best_gbdt_clicks(experiment, as_of=not options.bare)
    for row in found.tried:
        print(json.dumps({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}))
    for part, logits in ((Part.VALID, found.valid), (Part.TEST, found.test)):
        examples = experiment.examples(part)
        metrics = click_metrics(examples.label, logits, np.asarray(examples.user))
        print(part.name.lower(), {name: round(value, 4) for name, value in metrics.items()})


if __name__ == "__main__":
    main()
