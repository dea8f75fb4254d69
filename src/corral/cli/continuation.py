"""The report of a run that continues another one: what came to the data, and both runs on the same new test."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from corral.cli.earlier_run import EarlierRun
from corral.cli.experiment import Experiment
from corral.cli.run_files import CONTINUATION_FILE, write_text
from corral.cli.show import metric_values
from corral.data.split import Part
from corral.data.vocabulary import FIRST_ROW, UNKNOWN
from corral.evaluation.result import Evaluation
from corral.evaluation.significance import compare

OPTIMIZER = "moments and schedule start anew; the weights are the earlier run's best"


def _rows(moved: np.ndarray, rows: int) -> dict[str, int]:
    """Rows of users or items: then, gone since, new."""
    gone = int((moved[FIRST_ROW:] == UNKNOWN).sum())
    then = len(moved) - FIRST_ROW
    return {"then": then, "gone": gone, "new": rows - FIRST_ROW - then + gone}


def what_changed(experiment: Experiment, earlier: EarlierRun) -> dict[str, Any]:
    """What came to the data since the earlier run, and how its new rows start; JSON values."""
    dataset, split = experiment.dataset, experiment.split
    lengths = np.diff(earlier.recommender.tables.histories.offsets)
    then = int(lengths[earlier.users != UNKNOWN].sum())
    train, seen = split.rows(Part.TRAIN), np.zeros(dataset.n_items, dtype=bool)
    seen[earlier.learned[earlier.learned >= FIRST_ROW]] = True
    to_learn = np.flatnonzero(~seen & (experiment.counts > 0))
    alike = int(np.isin(to_learn, earlier.look_alikes.item.numpy()).sum())
    return {
        "continues": str(earlier.directory),
        "data_hash": {"then": earlier.data_hash, "now": dataset.hash},
        "users": _rows(earlier.users, dataset.n_users),
        "items": _rows(earlier.items, dataset.n_items),
        "events": {"then": then, "now": len(dataset.events), "share_new": 1 - then / len(dataset.events)},
        "train_events": {"then": earlier.protocol.get("train_events"), "now": len(train)},
        "split": {
            name: {"then": earlier.protocol[name], "now": fact}
            for name, fact in split.facts.items()
            if name in ("valid_from", "test_from")
        },
        "items_to_learn": {"with_look_alikes": alike, "without": len(to_learn) - alike},
        "optimizer": OPTIMIZER,
    }


def write_continuation(
    experiment: Experiment, earlier: EarlierRun, before: Evaluation, after: Evaluation, seconds: float
) -> None:
    """Writes continuation.json into the run's directory.

    Args:
        experiment: the run.
        earlier: what it continues.
        before: the earlier run's bundle on this run's test.
        after: this run's.
        seconds: that its training took.
    """
    shared = [name for name in after.metrics if name in before.metrics]
    found = what_changed(experiment, earlier)
    found["metrics"] = {
        "targets": "the test part of the grown data, for both",
        "before": metric_values({name: before.metrics[name] for name in shared}),
        "after": metric_values({name: after.metrics[name] for name in shared}),
        "ndcg@10": asdict(compare([before], [after], "ndcg@10")),
    }
    found["seconds"] = seconds
    write_text(experiment.directory / CONTINUATION_FILE, json.dumps(found, indent=1) + "\n")


def show_continuation(found: dict[str, Any], console: Console) -> None:
    """The report for a person."""
    events, train = found["events"], found["train_events"]
    lines = [
        f"Continues {found['continues']}: {events['now']:,} events, {events['share_new']:.1%} of them new; "
        f"{train['now']:,} to train on (then {train['then']:,})."
    ]
    for what in ("users", "items"):
        rows = found[what]
        gone = f", {rows['gone']:,} gone" if rows["gone"] else ""
        lines.append(f"{what.capitalize()}: {rows['then']:,} then, {rows['new']:,} new{gone}.")
    lines += [f"{name}: {at['then']} then, {at['now']} now." for name, at in found["split"].items()]
    new = found["items_to_learn"]
    lines.append(
        f"Items learned for the first time: {new['with_look_alikes']:,} with look-alikes, {new['without']:,} without."
    )
    lines.append(f"Optimizer: {found['optimizer']}.")
    for line in lines:
        console.print(escape(line), highlight=False)
    metrics = found["metrics"]
    table = Table("the same new test", "before", "after", title_justify="left")
    for name in ("ndcg@10", "recall@10", "mrr@10", "retriever/ndcg@10", "ranker/ndcg@10", "click/auc"):
        values = [metrics[when].get(name) for when in ("before", "after")]
        if None not in values:
            table.add_row(name, *(f"{value:.4f}" for value in values))
    console.print(table)
    pair = metrics["ndcg@10"]
    interval = f"[{pair['low']:+.4f}, {pair['high']:+.4f}] over {pair['n_clusters']:,} users"
    told = f"nDCG@10 {pair['difference']:+.4f} {interval} (paired bootstrap, {pair['level']:.0%})."
    console.print(escape(told), highlight=False)
