"""Continuing a run day by day against training anew: what it costs, and what it loses or wins.

Steps: the data grow by a day (ml-1m: its first 31 days, then day by day) or a week (online-retail: the last ones, after
eleven). A step's test is what just came, its validation the day or week before. At every step, on the same test:

- ``stale``: the bundle of before the first step, as it stands
- ``anew``: the whole recipe on all data so far
- ``continued``: ``corral train --from`` the step before, one epoch of every training
- ``continued, unknown``: the same, new items start as "unknown" instead of as the mean of their look-alikes
- ``rows alone`` and ``rows alone, unknown``: the same two starts, nothing trained

    python benchmarks/bench_continue.py

Goes on where it was interrupted. Needs CORRAL_DATA for ml-1m. Prints tables and writes docs/results/continue.json and
continue.md. One thread; CPU seconds of training, evaluation left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from results import ROOT, Row, result_row, table, with_published, write_results

from corral.cli import run as run_module
from corral.cli.continued_settings import continued_settings
from corral.cli.experiment import Experiment
from corral.cli.open_data import open_data
from corral.cli.run import judge, judge_earlier, train_models, train_run
from corral.data.dataset import Dataset
from corral.data.dataset_append import append_events
from corral.data.dataset_interactions import events_frame
from corral.data.interactions import Interactions
from corral.evaluation.result import Evaluation
from corral.settings import DataSettings, load_settings

DAY = 86_400
# The last weeks of online-retail; fixed, so that a step is the same weeks however many steps a call measures.
WEEKS = 3
RECIPES = {
    "ml-1m": """
threads: 1
retriever: {kind: sasrec, size: 32, blocks: 1, max_length: 50}
retriever_training: {epochs: 8, batch_size: 16, learning_rate: 0.003, warmup_steps: 20, cosine: true, patience: 2}
ranker: {kind: din, field_size: 16, attention_size: 16, history_length: 20, hidden: [32], embedding_dropout: 0.2,
  user_id: false, evidence: {}}
ranker_training: {epochs: 3, batch_size: 16, learning_rate: 0.003, warmup_steps: 20, cosine: true, patience: 1,
  num_negatives: 10, max_per_user: 16}
evaluation: {num_candidates: 100}
""",
    "online-retail": """
threads: 1
retriever: {kind: sasrec, size: 32, blocks: 1, max_length: 50}
ranker: {kind: din, field_size: 16, attention_size: 16, history_length: 20, hidden: [32], embedding_dropout: 0.2,
  user_id: false, evidence: {}}
together: {kind: corr, full_softmax: true, epochs: 5, batch_size: 16, learning_rate: 0.003, warmup_steps: 20,
  cosine: true, patience: 2, num_negatives: 10, max_per_user: 4}
evaluation: {num_candidates: 100}
""",
}
METRICS = ("ndcg@10", "recall@10", "retriever/recall@100", "new_items/recall@500", "train_seconds")


@dataclass(frozen=True)
class Steps:
    """When the data of a data set grow.

    Attributes:
        name: of the data set.
        edges: the data of step k end before ``edges[k + 2]``; its test begins at ``edges[k + 1]``, its validation at
            ``edges[k]``.
        folder: where all that is made lies.
    """

    name: str
    edges: tuple[int, ...]
    folder: Path

    @classmethod
    def of(cls, name: str, count: int, folder: Path) -> Steps:
        """Days from the 30th on, or the last weeks: at most ``WEEKS`` of these."""
        times = np.asarray(open_data(DataSettings(name=name)).events.time)
        if name == "ml-1m":
            return cls(name, tuple(int(times.min()) + DAY * (29 + k) for k in range(count + 3)), folder)
        week, end, count = 7 * 24 * 60, int(times.max()) + 1, min(count, WEEKS)
        return cls(name, tuple(end - week * (WEEKS + 2 - k) for k in range(count + 3)), folder)

    @property
    def count(self) -> int:
        """How many steps."""
        return len(self.edges) - 3

    def dataset(self, step: int) -> Path:
        """The data of a step, appended to those of the step before."""
        path = self.folder / f"{self.name}-data-{step}"
        if path.exists():
            return path
        source = open_data(DataSettings(name=self.name))
        frame = events_frame(source, source.events).drop("value", "part", strict=False)
        if step == 0:
            # Of online-retail the latest part alone: what was bought last year teaches little and takes long.
            start = 0 if self.name == "ml-1m" else self.edges[2] - 11 * 7 * 24 * 60
            first = frame.filter(frame["timestamp"].is_between(start, self.edges[2], closed="left"))
            interactions = Interactions.of(first, time_unit=source.header.time_unit, source=self.name)
            return Dataset.write(path, interactions, name=self.name).path
        grown = Path(shutil.copytree(self.dataset(step - 1), f"{path}.tmp", dirs_exist_ok=True))
        between = frame["timestamp"].is_between(self.edges[step + 1], self.edges[step + 2], closed="left")
        append_events(grown, frame.filter(between))
        grown.rename(path)
        return path

    def overrides(self, step: int, seed: int) -> tuple[str, ...]:
        """Data, split and seed of a step."""
        cut = f"split={{valid_from: {self.edges[step]}, test_from: {self.edges[step + 1]}}}"
        return (f"data={{path: {self.dataset(step)}}}", cut, f"seed={seed}")


def new_item_recall(found: Evaluation, known: set[object], now: Dataset, until: int, k: int = 500) -> dict[str, float]:
    """Recall of stage 1 on targets whose items the first training did not know, and this step's did.

    Args:
        found: a system's evaluation.
        known: items of the first training.
        now: the data of the step.
        until: its training ends before.
        k: length of the list.
    """
    items, events = found.targets["item"], now.events
    trained = np.bincount(events.item[events.time < until], minlength=now.n_items)[items] > 0
    new = trained & np.array([item not in known for item in now.items.external(items)])
    ranks = found.targets["retriever"][new]
    share = float(((ranks > 0) & (ranks <= k)).mean()) if new.any() else float("nan")
    return {f"new_items/recall@{k}": share, "new_items/targets": float(new.sum())}


class Measured:
    """Rows of one data set and seed, each kept when it is made.

    Args:
        steps: of the data.
        seed: of all runs.
    """

    def __init__(self, steps: Steps, seed: int) -> None:
        self.steps, self.seed = steps, seed
        self.rows: list[Row] = []
        first = Dataset.open(steps.dataset(0))
        trained = first.events.item[first.events.time < steps.edges[0]]
        self.known: set[object] = set(first.items.external(np.unique(trained)))

    def path(self, system: str, step: int) -> Path:
        """The run of a system at a step."""
        return self.steps.folder / f"{self.steps.name}-{self.seed}-{system.replace(', ', '-').replace(' ', '-')}-{step}"

    def row(self, system: str, step: int, found: Evaluation | None, seconds: float, experiment: Experiment) -> None:
        """Keeps a row."""
        metrics = {"train_seconds": seconds}
        if found is not None:
            found.save(self.path(system, step) / "evaluation")
            metrics |= {name: found.metrics[name] for name in METRICS if name in found.metrics}
            metrics |= new_item_recall(found, self.known, experiment.dataset, self.steps.edges[step])
        made = result_row(self.steps.name, system, self.seed, metrics, data_hash=experiment.dataset.hash)
        (self.path(system, step) / "row.json").write_text(json.dumps({**made, "step": step}))

    def run(self, system: str, step: int, finished: bool = False) -> None:
        """Measures a system at a step, if that was not done before; ``finished``: measures nothing."""
        directory = self.path(system, step)
        if not (directory / "row.json").exists():
            if finished:
                return
            shutil.rmtree(directory, ignore_errors=True)
            self._run(system, step, directory)
        self.rows.append(json.loads((directory / "row.json").read_text()))
        print(system, step, self.rows[-1]["metrics"], flush=True)

    def _run(self, system: str, step: int, directory: Path) -> None:
        overrides = self.steps.overrides(step, self.seed)
        if system == "anew":
            experiment = Experiment.start(
                load_settings(RECIPES[self.steps.name], system, overrides), directory, quiet=True
            )
            self._trained(system, step, experiment)
            return
        before = self.path("anew", 0) if system == "stale" or step == 1 else self.path("continued", step - 1)
        epochs = 1 if system.startswith("continued") else 0
        experiment = Experiment.start(continued_settings(before, epochs, overrides), directory, quiet=True)
        assert experiment.earlier is not None
        if system == "stale":
            self.row(system, step, judge_earlier(experiment, experiment.earlier), 0.0, experiment)
            return
        if system.endswith("unknown"):
            experiment.__dict__["earlier"] = replace(experiment.earlier, look_alikes=None)
        if epochs == 0:
            models = train_models(experiment)
            self.row(system, step, judge(experiment, models), 0.0, experiment)
            return
        self._trained(system, step, experiment)

    def _trained(self, system: str, step: int, experiment: Experiment) -> None:
        seconds: list[float] = []

        def timed(one: Experiment) -> run_module.Models:
            start = time.process_time()
            models = train_models(one)
            seconds.append(time.process_time() - start)
            return models

        run_module.train_models = timed
        run_module.write_continuation = lambda *rest: None  # the earlier run is judged as a system of its own
        self.row(system, step, train_run(experiment), seconds[0], experiment)


SYSTEMS = ("stale", "anew", "continued", "continued, unknown", "rows alone", "rows alone, unknown")


def means(rows: list[Row]) -> list[Row]:
    """One row a data set, system and seed: the mean over the steps after the first training."""
    found: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        if row["step"]:
            found.setdefault((row["dataset"], row["system"], row["seed"]), []).append(row)
    return [
        members[0]
        | {"metrics": {m: float(np.nanmean([row["metrics"].get(m, np.nan) for row in members])) for m in METRICS}}
        for members in found.values()
    ]


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--datasets", nargs="+", choices=sorted(RECIPES), default=sorted(RECIPES))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "continue", help="where the runs are kept")
    parser.add_argument("--finished", action="store_true", help="measure nothing: write the page of what is finished")
    parser.add_argument("--folder", type=Path, help="where to write (docs/results)")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for name in options.datasets:
        if name == "ml-1m" and "CORRAL_DATA" not in os.environ:
            print("ml-1m: not measured, CORRAL_DATA is not set; its published rows stay", flush=True)
            continue
        for seed in options.seeds:
            steps = Steps.of(name, options.steps, options.runs)
            measured = Measured(steps, seed)
            measured.run("anew", 0, options.finished)
            for step in range(1, steps.count + 1):
                for system in SYSTEMS:
                    measured.run(system, step, options.finished)
            rows += measured.rows
    told = "Means over the steps; `new_items` are targets whose items this step's training knows and the first did not."
    rows = with_published("continue", rows, options.folder, within="step")
    rows.sort(key=lambda row: (row["dataset"], row["seed"], row["step"], SYSTEMS.index(row["system"])))
    done = {
        name: max(row["step"] for row in rows if row["dataset"] == name)
        for name in dict.fromkeys(row["dataset"] for row in rows)
    }
    lines = [f"{told} Steps measured: {', '.join(f'{name} {count}' for name, count in done.items())}.", ""]
    lines += table(means(rows), METRICS)
    for name in done:
        later = [row for row in rows if row["dataset"] == name and row["step"]]
        named = [row | {"dataset": f"{name}, step {row['step']}"} for row in later]
        lines += ["", *table(named, METRICS)]
    protocol = {
        "threads": 1,
        "train_seconds": "CPU seconds of both trainings, correction and mixture",
        "ml-1m": "first 31 days, then a day a step",
        "online-retail": "eleven weeks, then a week a step, the last of the data",
        "test": "the events of the step's day or week; validation: the one before",
        "recipes": RECIPES,
    }
    write_results("continue", rows, protocol, lines, options.folder)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
