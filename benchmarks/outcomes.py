"""Where each tested target ended, of every published run: systems can be compared when their runs are long gone.

benchmarks/outcomes/DATASET-SYSTEM-SEED.npz, some kilobytes each, committed with the row of the same name in
docs/results/corr.json or peers.json, which says by which rules it was judged. Ranks and item groups: no ids.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from results import ROOT, Row, run_key

from corral.evaluation.result import Evaluation, Stage
from corral.evaluation.significance import compare

FOLDER = ROOT / "benchmarks" / "outcomes"
RETRIEVER, CANDIDATES = Stage.RETRIEVER.value, "candidates"


def path_of(row: Row) -> Path:
    """Where the outcomes of a row lie, kept or not."""
    return FOLDER / ("-".join(map(str, run_key(row))).replace("/", "-") + ".npz")


def keep(evaluation: Evaluation, path: Path) -> None:
    """Writes what an evaluation of one target a user says of each.

    Raises:
        ValueError: a user, or a query, with several targets.
    """
    targets, users = evaluation.targets, evaluation.queries["user"]
    if len(targets["query"]) != len(users) or len(np.unique(users)) != len(users):
        raise ValueError(f"{path}: outcomes are kept of leave-last splits alone, one target a user")
    served = evaluation.served.value
    names = {name: targets[name] for name in dict.fromkeys((served, RETRIEVER, CANDIDATES)) if name in targets}
    arrays = {name: ranks.astype(np.uint16) for name, ranks in names.items()} | {"group": targets["group"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    os.replace(temporary, path)


def restore(row: Row) -> Evaluation:
    """The evaluation as far as it was kept: nDCG@10 of each query, and the targets' ranks."""
    with np.load(path_of(row), allow_pickle=False) as file:
        targets = {name: file[name] for name in file.files}
    served = row.get("served", RETRIEVER)
    ranks = targets[served].astype(np.float64)
    gains = np.where((ranks > 0) & (ranks <= 10), 1.0 / np.log2(1.0 + np.maximum(ranks, 1.0)), 0.0)
    # One query a user, so that queries are what is resampled.
    queries = {"user": 2 + np.arange(len(ranks))}
    return Evaluation(dict(row["metrics"]), {"ndcg@10": gains}, queries, targets, row["protocol"], {"serve_by": served})


def comparison(
    theirs: Sequence[Row], ours: Sequence[Row], before: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """Paired bootstrap over users of our rows against another system's, nDCG@10.

    Args:
        theirs: rows of one system and data set.
        ours: rows of the system that is to gain, same data set.
        before: comparisons that were published; one over more seeds than have outcomes here stays as it is.

    Returns:
        What is to be published, over the seeds whose outcomes are kept of both; None where there is nothing.

    Raises:
        ValueError: the two were judged by different rules.
    """
    if not (theirs and ours):
        return None
    name = {"dataset": ours[0]["dataset"], "system": ours[0]["system"], "against": theirs[0]["system"]}
    kept = [{row["seed"]: row for row in rows if path_of(row).exists()} for rows in (theirs, ours)]
    seeds = sorted(kept[0].keys() & kept[1].keys())
    known = next((pair for pair in before if name.items() <= pair.items()), None)
    if known is not None and known["seeds"] > len(seeds):
        return known
    if not seeds:
        return None
    first, second = ([restore(rows[seed]) for seed in seeds] for rows in kept)
    gap = compare(first, second)
    gain = gap.second / gap.first - 1 if gap.first else float("nan")
    measured = {"gain": gain, "difference": gap.difference, "low": gap.low, "high": gap.high}
    return {**name, "seeds": len(seeds), **measured}
